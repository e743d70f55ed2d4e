// pgx v4: see README.md. Argument: simple, or the mode of its statement cache.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

var (
	table = "app_" + os.Getenv("APP_ID")
	ctx   = context.Background()
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
	var failed *pgconn.PgError
	if err == nil {
		return "fine"
	}
	if errors.As(err, &failed) {
		return failed.Code
	}
	return err.Error()
}

type asker interface {
	QueryRow(ctx context.Context, sql string, args ...interface{}) pgx.Row
}

func number(c asker, sql string, given ...interface{}) int {
	var n int
	must(c.QueryRow(ctx, sql, given...).Scan(&n))
	return n
}

func basics(c *pgx.Conn) {
	_, err := c.Exec(ctx, "drop table if exists "+table)
	must(err)
	_, err = c.Exec(ctx, "create table "+table+" (n int primary key, t text)")
	must(err)
	total := 0
	for n := 0; n < 20; n++ {
		total += number(c, "select $1::int + 1", n)
	}
	fmt.Println("autocommit:", total)
	tx, err := c.Begin(ctx)
	must(err)
	insert := "insert into " + table + " values ($1, $2)"
	_, err = tx.Exec(ctx, insert, 1, "one")
	must(err)
	inner, err := tx.Begin(ctx)
	must(err)
	_, failed := inner.Exec(ctx, insert, 1, "x")
	must(inner.Rollback(ctx))
	_, err = tx.Exec(ctx, insert, 2, "two")
	must(err)
	must(tx.Commit(ctx))
	fmt.Println("transaction:", state(failed), number(c, "select count(*) from "+table))
	total = 0
	for n := 0; n < 120; n++ {
		total += number(c, "select $1::int from "+table+" where n = $2", n, n%2+1)
	}
	fmt.Println("prepared:", total)
}

func all(c *pgx.Conn) (told []interface{}, err error) {
	rows, err := c.Query(ctx, "select * from "+table+" where n = $1", 1)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		told, err = rows.Values()
	}
	if err == nil {
		err = rows.Err()
	}
	return told, err
}

func changed(c *pgx.Conn, pool *pgxpool.Pool) {
	_, err := all(c)
	must(err)
	_, err = pool.Exec(ctx, "alter table "+table+" add more int default 3")
	must(err)
	_, err = all(c)
	if servers > 1 && alike[state(err)] {
		fmt.Println("changed: as servers are shared")
	} else {
		fmt.Println("changed:", state(err))
		told, err := all(c)
		fmt.Println("changed, again:", told, state(err))
	}
	other, err := pgx.ConnectConfig(ctx, c.Config())
	must(err)
	told, err := all(other)
	for n := 0; n < servers && err != nil; n++ {
		told, err = all(other)
	}
	fmt.Println("changed, after:", told, state(err))
	must(other.Close(ctx))
}

func copies(c *pgx.Conn) {
	for _, start := range []int{100, 200} {
		rows := [][]interface{}{}
		for n := start; n < 300; n++ {
			rows = append(rows, []interface{}{n, "x"})
		}
		done, err := c.CopyFrom(ctx, pgx.Identifier{table}, []string{"n", "t"}, pgx.CopyFromRows(rows))
		fmt.Println("copy:", done, state(err))
	}
}

func batches(c *pgx.Conn) {
	batch := &pgx.Batch{}
	for n := 0; n < 30; n++ {
		batch.Queue("select $1::int", n)
	}
	batch.Queue("select 1 / $1::int", 0)
	batch.Queue("select 2")
	results := c.SendBatch(ctx, batch)
	total, failed := 0, error(nil)
	for n := 0; n < 32; n++ {
		var got int
		if err := results.QueryRow().Scan(&got); err != nil {
			failed = err
			break
		}
		total += got
	}
	results.Close()
	fmt.Println("batch:", total, state(failed))
	fmt.Println("batch, after:", number(c, "select $1::int", 5))
}

func pooled(pool *pgxpool.Pool) {
	total := make(chan int)
	for n := 0; n < 40; n++ {
		go func(n int) { total <- number(pool, "select $1::int", n) }(n)
	}
	sum := 0
	for n := 0; n < 40; n++ {
		sum += <-total
	}
	fmt.Println("pool:", sum)
	soon, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	_, err := pool.Exec(soon, "select pg_sleep($1)", 60)
	fmt.Println("cancel:", err != nil)
	fmt.Println("cancel, after:", number(pool, "select $1::int", 8))
}

func listens(c *pgx.Conn, pool *pgxpool.Pool) {
	_, err := c.Exec(ctx, "listen "+table)
	must(err)
	_, err = pool.Exec(ctx, "select pg_notify($1, $2)", table, "hello")
	must(err)
	told, err := c.WaitForNotification(ctx)
	must(err)
	fmt.Println("listen:", told.Channel, told.Payload)
}

func main() {
	where := "sslmode=disable"
	if os.Args[1] != "simple" {
		where += " statement_cache_mode=" + os.Args[1]
	}
	config, err := pgxpool.ParseConfig(where + " pool_max_conns=3")
	must(err)
	config.ConnConfig.PreferSimpleProtocol = os.Args[1] == "simple"
	pool, err := pgxpool.ConnectConfig(ctx, config)
	must(err)
	c, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	must(err)
	basics(c)
	changed(c, pool)
	copies(c)
	batches(c)
	if os.Getenv("APP_SESSION") == "1" {
		listens(c, pool)
	}
	pooled(pool)
	must(c.Close(ctx))
	gone, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	must(err)
	rows, err := gone.Query(ctx, "select repeat('x', 100000) from generate_series(1, $1)", 30)
	must(err)
	rows.Next()
	gone.PgConn().Conn().Close()
	fmt.Println("left:", number(pool, "select $1::int", 9))
	pool.Close()
}
