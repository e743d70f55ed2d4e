# DBD::Pg: see README.md. Argument: pg_server_prepare.
use strict;
use warnings;
use DBI;
use DBD::Pg qw(:async);
use List::Util qw(sum);

$| = 1;
my ($id, $session, $servers) = @ENV{qw(APP_ID APP_SESSION APP_SERVERS)};
my $table = "app_$id";
my $server_prepare = shift @ARGV;

sub connected {
    my $dbh = DBI->connect("dbi:Pg:", $ENV{PGUSER}, "",
        { RaiseError => 1, PrintError => 0, PrintWarn => 0, AutoCommit => 1 });
    $dbh->{pg_server_prepare} = $server_prepare;
    return $dbh;
}

sub state_of {
    my ($dbh, $call) = @_;
    eval { $call->(); 1 } and return "fine";
    return $dbh->state;
}

my $dbh = connected();
$dbh->do("set client_min_messages = warning");
$dbh->do("drop table if exists $table");
$dbh->do("create table $table (n int primary key, t text)");
print "autocommit: ", sum(map { $dbh->selectrow_array("select ?::int + 1", undef, $_) } 0 .. 19), "\n";
$dbh->begin_work;
$dbh->do("insert into $table values (?, ?)", undef, 1, "one");
$dbh->pg_savepoint("here");
my $failed = state_of($dbh, sub { $dbh->do("insert into $table values (?, ?)", undef, 1, "x") });
$dbh->pg_rollback_to("here");
$dbh->do("insert into $table values (?, ?)", undef, 2, "two");
$dbh->commit;
print "transaction: $failed ", $dbh->selectrow_array("select count(*) from $table"), "\n";
my $statement = $dbh->prepare("select t, ?::int from $table where n = ?");
my $total = 0;
for my $n (0 .. 119) {
    $statement->execute($n, $n % 3);
    $total += $_->[1] for @{ $statement->fetchall_arrayref };
}
print "prepared: $total @{$statement->{NAME}}\n";
$statement = $dbh->prepare("select * from $table where n = ?");
$statement->execute(1), $statement->finish for 1 .. 3;
my $other = connected();
$other->do("alter table $table add more int default 3");
$failed = state_of($dbh, sub { $statement->execute(1) });
$failed = "as servers are shared" if $servers > 1 && $failed =~ /^(fine|0A000)$/;
print "changed: $failed\n";
for (0 .. $servers) {
    undef $statement;
    $statement = $dbh->prepare("select * from $table where n = ?");
    last if state_of($dbh, sub { $statement->execute(1) }) eq "fine";
}
print "changed, after: @{$statement->fetchrow_arrayref}\n";
$statement->finish;
undef $statement;
$dbh->do("discard all");
print "reset: ", $dbh->selectrow_array("select ?::int", undef, 7), "\n";
$dbh->begin_work;
$dbh->do("declare mine cursor for select generate_series(1, 50)");
my $rows = $dbh->selectcol_arrayref("fetch 30 from mine");
print "cursor: ", sum(@$rows), "\n";
$dbh->commit;
$dbh->do("copy $table (n, t) from stdin");
$dbh->pg_putcopydata("$_\tx\n") for 100 .. 299;
$dbh->pg_putcopyend;
$dbh->do("copy $table (n, t) from stdin");
$dbh->pg_putcopydata("100\ttaken\n");
$failed = state_of($dbh, sub { $dbh->pg_putcopyend });
$dbh->do("copy (select n from $table) to stdout");
my ($line, @found) = ("");
push @found, $line while $dbh->pg_getcopydata(\$line) >= 0;
print "copy: ", sum(@found), " $failed\n";
my $many = $dbh->prepare("insert into $table values (?, ?)");
print "batch: ", $many->execute_array({}, [400 .. 449], "many"), "\n";
undef $many;
$dbh->do("select pg_sleep(60)", { pg_async => PG_ASYNC });
# It has to have begun: a request to cancel nothing is lost.
select undef, undef, undef, 0.5;
print "cancel: ", $dbh->pg_cancel ? 1 : 0, "\n";
print "cancel, after: ", $dbh->selectrow_array("select ?::int", undef, 8), "\n";
if ($session) {
    $dbh->do("listen $table");
    $other->do("notify $table, 'hello'");
    my $told;
    until ($told = $dbh->pg_notifies) { select undef, undef, undef, 0.01 }
    print "listen: $told->[0] $told->[2]\n";
}
$other->disconnect;
$dbh->disconnect;
my $gone = connected();
$gone->do("select repeat('x', 1000000)", { pg_async => PG_ASYNC });
undef $gone;
$dbh = connected();
print "left: ", $dbh->selectrow_array("select ?::int", undef, 9), "\n";
$dbh->disconnect;
