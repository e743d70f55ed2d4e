// lib/pq: see README.md. Argument: yes or no, its binary_parameters.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/lib/pq"
)

var (
	table = "app_" + os.Getenv("APP_ID")
	// How many servers there are to be on, and what one of several says that has parsed
	// a statement before or after its table has changed.
	servers, _ = strconv.Atoi(os.Getenv("APP_SERVERS"))
	alike      = map[string]bool{"fine": true, "0A000": true, "08P01": true}
)

func must(err error) {
	if err != nil {
		fmt.Println("unexpected:", err)
		os.Exit(1)
	}
}

func state(err error) string {
	if err == nil {
		return "fine"
	}
	if failed, is := err.(*pq.Error); is {
		return string(failed.Code)
	}
	return err.Error()
}

func number(row *sql.Row) int {
	var n int
	must(row.Scan(&n))
	return n
}

func basics(db *sql.DB) {
	_, err := db.Exec("drop table if exists " + table)
	must(err)
	_, err = db.Exec("create table " + table + " (n int primary key, t text)")
	must(err)
	total := 0
	for n := 0; n < 20; n++ {
		total += number(db.QueryRow("select $1::int + 1", n))
	}
	fmt.Println("autocommit:", total)
	tx, err := db.Begin()
	must(err)
	insert := "insert into " + table + " values ($1, $2)"
	_, err = tx.Exec(insert, 1, "one")
	must(err)
	_, err = tx.Exec("savepoint here")
	must(err)
	_, failed := tx.Exec(insert, 1, "x")
	_, err = tx.Exec("rollback to here")
	must(err)
	_, err = tx.Exec(insert, 2, "two")
	must(err)
	must(tx.Commit())
	fmt.Println("transaction:", state(failed), number(db.QueryRow("select count(*) from "+table)))
	statement, err := db.Prepare("select $1::int from " + table + " where n = $2")
	must(err)
	total = 0
	for n := 0; n < 120; n++ {
		total += number(statement.QueryRow(n, n%2+1))
	}
	must(statement.Close())
	fmt.Println("prepared:", total)
}

// The row of a table that has changed, by a statement that is prepared anew.
func anew(c *sql.Conn) (string, error) {
	statement, err := c.PrepareContext(context.Background(), "select * from "+table+" where n = $1")
	if err != nil {
		return "", err
	}
	defer statement.Close()
	var n, more int
	var text string
	err = statement.QueryRow(1).Scan(&n, &text, &more)
	return fmt.Sprint(n, text, more), err
}

func changed(db *sql.DB) {
	ctx := context.Background()
	c, err := db.Conn(ctx)
	must(err)
	defer c.Close()
	statement, err := c.PrepareContext(ctx, "select * from "+table+" where n = $1")
	must(err)
	rows, err := statement.Query(1)
	must(err)
	must(rows.Close())
	_, err = db.Exec("alter table " + table + " add more int default 3")
	must(err)
	rows, err = statement.Query(1)
	if err == nil {
		rows.Next()
		err = rows.Err()
		rows.Close()
	}
	told := state(err)
	if servers > 1 && alike[told] {
		told = "as servers are shared"
	}
	fmt.Println("changed:", told)
	statement.Close()
	row, err := anew(c)
	for n := 0; n < servers && err != nil; n++ {
		row, err = anew(c)
	}
	fmt.Println("changed, after:", row, state(err))
	_, err = c.ExecContext(ctx, "discard all")
	must(err)
	fmt.Println("reset:", number(c.QueryRowContext(ctx, "select $1::int", 7)))
}

func copies(db *sql.DB) {
	for _, start := range []int{100, 200} {
		tx, err := db.Begin()
		must(err)
		copying, err := tx.Prepare(pq.CopyIn(table, "n", "t"))
		must(err)
		for n := start; n < 300; n++ {
			_, err = copying.Exec(n, "x")
			must(err)
		}
		_, failed := copying.Exec()
		copying.Close()
		if failed == nil {
			must(tx.Commit())
		} else {
			must(tx.Rollback())
		}
		fmt.Println("copy:", state(failed), number(db.QueryRow("select count(*) from "+table)))
	}
}

func cancels(db *sql.DB) {
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	_, err := db.ExecContext(ctx, "select pg_sleep($1)", 60)
	fmt.Println("cancel:", state(err))
	fmt.Println("cancel, after:", number(db.QueryRow("select $1::int", 8)))
}

func listens(db *sql.DB, where string) {
	listener := pq.NewListener(where, time.Second, time.Second, nil)
	must(listener.Listen(table))
	_, err := db.Exec("select pg_notify($1, $2)", table, "hello")
	must(err)
	told := <-listener.Notify
	fmt.Println("listen:", told.Channel, told.Extra)
	must(listener.Close())
}

func main() {
	where := "sslmode=disable binary_parameters=" + os.Args[1]
	db, err := sql.Open("postgres", where)
	must(err)
	basics(db)
	changed(db)
	copies(db)
	cancels(db)
	if os.Getenv("APP_SESSION") == "1" {
		listens(db, where)
	}
	rows, err := db.Query("select repeat('x', 100000) from generate_series(1, $1)", 30)
	must(err)
	rows.Next()
	must(rows.Close())
	fmt.Println("left:", number(db.QueryRow("select $1::int", 9)))
	must(db.Close())
}
