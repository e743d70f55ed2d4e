// lib/pq: see README.md. It has no COPY TO.
package main

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"

	"github.com/lib/pq"
)

var input = bufio.NewReader(os.Stdin)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(got, wanted int) {
	if got != wanted {
		must(fmt.Errorf("got %d, not %d", got, wanted))
	}
}

func use(database string) {
	db, err := sql.Open("postgres", "dbname="+database)
	must(err)
	// database/sql has a pool of its own; this is one connection out of it.
	ctx := context.Background()
	connection, err := db.Conn(ctx)
	must(err)
	fmt.Println(database, "login")

	var number int
	tx, err := connection.BeginTx(ctx, nil)
	must(err)
	_, err = tx.Exec("create temp table zoo (n int) on commit drop")
	must(err)
	_, err = tx.Exec("insert into zoo values ($1)", 7)
	must(err)
	must(tx.QueryRow("select n from zoo").Scan(&number))
	check(number, 7)
	must(tx.Commit())
	fmt.Println(database, "transaction")

	statement, err := connection.PrepareContext(ctx, "select $1::int + 1")
	must(err)
	for _, given := range []int{1, 2} {
		must(statement.QueryRow(given).Scan(&number))
		check(number, given+1)
	}
	must(statement.Close())
	fmt.Println(database, "prepared")

	tx, err = connection.BeginTx(ctx, nil)
	must(err)
	_, err = tx.Exec("create temp table zoo (n int) on commit drop")
	must(err)
	copying, err := tx.Prepare(pq.CopyIn("zoo", "n"))
	must(err)
	for n := 0; n < 1000; n++ {
		_, err = copying.Exec(n)
		must(err)
	}
	_, err = copying.Exec()
	must(err)
	must(copying.Close())
	must(tx.QueryRow("select sum(n) from zoo").Scan(&number))
	check(number, 499500)
	must(tx.Commit())
	fmt.Println(database, "copy")

	cancelled, cancel := context.WithCancel(ctx)
	go func() {
		input.ReadString('\n')
		cancel()
	}()
	fmt.Println(database, "sleeping")
	_, err = connection.ExecContext(cancelled, "select pg_sleep(60)")
	failure, fine := err.(*pq.Error)
	if !fine || failure.Code != "57014" {
		must(fmt.Errorf("not cancelled: %v", err))
	}
	fmt.Println(database, "cancel")
	// lib/pq gives up a connection whose query was cancelled.
	must(db.QueryRow("select 8").Scan(&number))
	check(number, 8)
	must(db.Close())
	fmt.Println(database, "done")
}

func main() {
	for _, database := range os.Args[1:] {
		use(database)
	}
}
