<?php
// PHP: see README.md. PDO for everything but cancelling, which only pg_* can.

function check(bool $fine, string $what): void
{
    if (!$fine) {
        fwrite(STDERR, "wrong: $what\n");
        exit(1);
    }
}

function say(string $database, string $step): void
{
    echo "$database $step\n";
    flush();
}

function use_database(string $database): void
{
    $pdo = new PDO("pgsql:dbname=$database", getenv('PGUSER'), getenv('PGPASSWORD'), [
        PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION,
    ]);
    say($database, 'login');
    $pdo->beginTransaction();
    $pdo->exec('create temp table zoo (n int) on commit drop');
    $pdo->exec('insert into zoo values (7)');
    check($pdo->query('select n from zoo')->fetchColumn() == 7, 'transaction');
    $pdo->commit();
    say($database, 'transaction');
    $statement = $pdo->prepare('select ?::int + 1');
    foreach ([1, 2] as $number) {
        $statement->execute([$number]);
        check($statement->fetchColumn() == $number + 1, 'prepared');
    }
    say($database, 'prepared');
    $pdo->beginTransaction();
    $pdo->exec('create temp table zoo (n int) on commit drop');
    $pdo->pgsqlCopyFromArray('zoo', array_map('strval', range(0, 999)));
    check(array_sum(array_map('intval', $pdo->pgsqlCopyToArray('zoo'))) == 499500, 'copy');
    $pdo->commit();
    say($database, 'copy');
    $connection = pg_connect("dbname=$database");
    say($database, 'sleeping');
    pg_send_query($connection, 'select pg_sleep(60)');
    fgets(STDIN);
    // It also takes the answer off the connection.
    check(pg_cancel_query($connection), 'cancel');
    say($database, 'cancel');
    check(pg_fetch_result(pg_query($connection, 'select 8'), 0, 0) == 8, 'after');
    say($database, 'done');
}

foreach (array_slice($argv, 1) as $database) {
    use_database($database);
}
