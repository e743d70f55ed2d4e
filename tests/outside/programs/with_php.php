<?php
// PDO: see README.md. Argument: native, emulated or unnamed.
$table = 'app_' . getenv('APP_ID');
$how = $argv[1];
$servers = (int) getenv('APP_SERVERS');

function connected(string $how): PDO
{
    $pdo = new PDO('pgsql:', getenv('PGUSER'), '');
    $pdo->setAttribute(PDO::ATTR_ERRMODE, PDO::ERRMODE_EXCEPTION);
    $pdo->setAttribute(PDO::ATTR_EMULATE_PREPARES, $how === 'emulated');
    if ($how === 'unnamed') {
        $pdo->setAttribute(PDO::PGSQL_ATTR_DISABLE_PREPARES, true);
    }
    return $pdo;
}

function asked(PDO $pdo, string $sql, array $given = []): mixed
{
    $statement = $pdo->prepare($sql);
    $statement->execute($given);
    return $statement->fetchColumn();
}

function state(callable $call): string
{
    try {
        $call();
    } catch (PDOException $error) {
        return $error->errorInfo[0];
    }
    return 'fine';
}

$pdo = connected($how);
$pdo->exec('set client_min_messages = warning');
$pdo->exec("drop table if exists $table");
$pdo->exec("create table $table (n int primary key, t text)");
$total = 0;
for ($n = 0; $n < 20; $n++) {
    $total += asked($pdo, 'select ?::int + 1', [$n]);
}
echo "autocommit: $total\n";
$pdo->beginTransaction();
asked($pdo, "insert into $table values (?, ?) returning n", [1, 'one']);
$pdo->exec('savepoint here');
$failed = state(fn() => asked($pdo, "insert into $table values (?, ?) returning n", [1, 'x']));
$pdo->exec('rollback to here');
asked($pdo, "insert into $table values (?, ?) returning n", [2, 'two']);
$pdo->commit();
echo "transaction: $failed ", asked($pdo, "select count(*) from $table"), "\n";
$statement = $pdo->prepare("select t, ?::int as n from $table where n = ?");
$total = 0;
for ($n = 0; $n < 120; $n++) {
    $statement->execute([$n, $n % 3]);
    $total += array_sum(array_column($statement->fetchAll(), 'n'));
}
echo "prepared: $total ", $statement->getColumnMeta(1)['native_type'], "\n";
$statement = $pdo->prepare("select * from $table where n = ?");
$statement->execute([1]);
$statement->fetchAll();
$other = connected($how);
$other->exec("alter table $table add more int default 3");
if ($how !== 'native' || $servers > 1) {
    // PHP itself crashes where a result has more columns than the one before.
    $statement = $pdo->prepare("select * from $table where n = ?");
}
$told = state(fn() => $statement->execute([1]));
if ($servers > 1 && in_array($told, ['fine', '0A000'])) {
    $told = 'as servers are shared';
}
echo "changed: $told\n";
for ($n = 0; $n <= $servers; $n++) {
    unset($statement);
    $statement = $pdo->prepare("select * from $table where n = ?");
    if (state(fn() => $statement->execute([1])) === 'fine') {
        break;
    }
}
echo 'changed, after: ', implode(' ', $statement->fetch(PDO::FETCH_NUM)), "\n";
unset($statement);
$pdo->exec('discard all');
echo 'reset: ', asked($pdo, 'select ?::int', [7]), "\n";
$pdo->beginTransaction();
$cursor = $pdo->prepare('select generate_series(1, 50)', [PDO::ATTR_CURSOR => PDO::CURSOR_SCROLL]);
$cursor->execute();
$total = 0;
while (($row = $cursor->fetch(PDO::FETCH_NUM)) !== false) {
    $total += $row[0];
}
unset($cursor);
$pdo->commit();
echo "cursor: $total\n";
$lines = array_map(fn($n) => "$n\tx", range(100, 299));
$pdo->exec("alter table $table drop more");
$pdo->pgsqlCopyFromArray($table, $lines);
$failed = state(fn() => $pdo->pgsqlCopyFromArray($table, $lines));
echo 'copy: ', count($pdo->pgsqlCopyToArray($table)), " $failed\n";
if (getenv('APP_SESSION')) {
    $pdo->exec("listen $table");
    $other->exec("notify $table, 'hello'");
    $told = $pdo->pgsqlGetNotify(PDO::FETCH_ASSOC, 20000);
    echo "listen: {$told['message']} {$told['payload']}\n";
}
$lob = null;
$pdo->beginTransaction();
$oid = $pdo->pgsqlLOBCreate();
$stream = $pdo->pgsqlLOBOpen($oid, 'w');
fwrite($stream, str_repeat('y', 100000));
fclose($stream);
$pdo->commit();
$pdo->beginTransaction();
echo 'large object: ', strlen(stream_get_contents($pdo->pgsqlLOBOpen($oid, 'r'))), "\n";
$pdo->pgsqlLOBUnlink($oid);
$pdo->commit();
unset($pdo);
$gone = connected($how);
$gone->beginTransaction();
$gone->exec("insert into $table values (999, 'never')");
unset($gone);
echo 'left: ', asked(connected($how), 'select ?::int', [9]), "\n";
