# DBD::Pg: see README.md.
use strict;
use warnings;
use DBI;
use DBD::Pg qw(:async);
use List::Util qw(sum);

$| = 1;

sub check {
    my ($fine, $what) = @_;
    die "wrong: $what\n" unless $fine;
}

sub use_database {
    my ($database) = @_;
    my $dbh = DBI->connect("dbi:Pg:dbname=$database", $ENV{PGUSER}, $ENV{PGPASSWORD},
        { RaiseError => 1, PrintError => 0, AutoCommit => 1 });
    print "$database login\n";
    $dbh->begin_work;
    $dbh->do("create temp table zoo (n int) on commit drop");
    $dbh->do("insert into zoo values (?)", undef, 7);
    check($dbh->selectrow_array("select n from zoo") == 7, "transaction");
    $dbh->commit;
    print "$database transaction\n";
    # The second time it would be sent as a named statement anyway.
    my $statement = $dbh->prepare("select ?::int + 1", { pg_prepare_now => 1 });
    for my $number (1, 2) {
        $statement->execute($number);
        my ($got) = $statement->fetchrow_array;
        check($got == $number + 1, "prepared");
        $statement->finish;
    }
    undef $statement;
    print "$database prepared\n";
    $dbh->begin_work;
    $dbh->do("create temp table zoo (n int) on commit drop");
    $dbh->do("copy zoo from stdin");
    $dbh->pg_putcopydata("$_\n") for 0 .. 999;
    $dbh->pg_putcopyend;
    $dbh->do("copy zoo to stdout");
    my ($line, @rows) = ("");
    push @rows, $line while $dbh->pg_getcopydata(\$line) >= 0;
    check(sum(@rows) == 499500, "copy");
    $dbh->commit;
    print "$database copy\n";
    print "$database sleeping\n";
    $dbh->do("select pg_sleep(60)", { pg_async => PG_ASYNC });
    <STDIN>;
    check($dbh->pg_cancel, "cancel");
    print "$database cancel\n";
    check($dbh->selectrow_array("select 8") == 8, "after");
    $dbh->disconnect;
    print "$database done\n";
}

use_database($_) for @ARGV;
