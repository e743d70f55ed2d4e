// JDBC: see README.md.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.StringReader;
import java.io.StringWriter;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;

public class WithJdbc {
    static final BufferedReader INPUT = new BufferedReader(new InputStreamReader(System.in));

    static void check(boolean fine, String what) {
        if (!fine) throw new IllegalStateException("wrong: " + what);
    }

    static int number(Statement statement, String sql) throws SQLException {
        try (ResultSet rows = statement.executeQuery(sql)) {
            check(rows.next(), sql);
            return rows.getInt(1);
        }
    }

    static Connection open(String database) throws SQLException {
        Properties wanted = new Properties();
        wanted.setProperty("user", System.getenv("PGUSER"));
        wanted.setProperty("password", System.getenv("PGPASSWORD"));
        wanted.setProperty("sslmode", System.getenv("PGSSLMODE"));
        String authority = System.getenv("PGSSLROOTCERT");
        if (authority != null) wanted.setProperty("sslrootcert", authority);
        // From the first use on, a prepared statement has a name.
        wanted.setProperty("prepareThreshold", "1");
        String where = System.getenv("PGHOST") + ":" + System.getenv("PGPORT");
        return DriverManager.getConnection("jdbc:postgresql://" + where + "/" + database, wanted);
    }

    static void use(String database) throws Exception {
        try (Connection connection = open(database); Statement statement = connection.createStatement()) {
            System.out.println(database + " login");
            connection.setAutoCommit(false);
            statement.execute("create temp table zoo (n int) on commit drop");
            statement.execute("insert into zoo values (7)");
            check(number(statement, "select n from zoo") == 7, "transaction");
            connection.commit();
            connection.setAutoCommit(true);
            System.out.println(database + " transaction");
            try (PreparedStatement prepared = connection.prepareStatement("select ?::int + 1")) {
                for (int given = 1; given <= 2; given++) {
                    prepared.setInt(1, given);
                    try (ResultSet rows = prepared.executeQuery()) {
                        check(rows.next() && rows.getInt(1) == given + 1, "prepared");
                    }
                }
            }
            System.out.println(database + " prepared");
            connection.setAutoCommit(false);
            statement.execute("create temp table zoo (n int) on commit drop");
            CopyManager copying = connection.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder rows = new StringBuilder();
            for (int n = 0; n < 1000; n++) rows.append(n).append('\n');
            check(copying.copyIn("copy zoo from stdin", new StringReader(rows.toString())) == 1000, "copy in");
            StringWriter out = new StringWriter();
            copying.copyOut("copy zoo to stdout", out);
            check(out.toString().lines().mapToInt(Integer::parseInt).sum() == 499500, "copy out");
            connection.commit();
            connection.setAutoCommit(true);
            System.out.println(database + " copy");
            Thread canceller = new Thread(() -> {
                try {
                    INPUT.readLine();
                    statement.cancel();
                } catch (Exception error) {
                    error.printStackTrace();
                }
            });
            canceller.start();
            System.out.println(database + " sleeping");
            try {
                statement.execute("select pg_sleep(60)");
            } catch (SQLException error) {
                check("57014".equals(error.getSQLState()), error.toString());
                System.out.println(database + " cancel");
            }
            canceller.join();
            check(number(statement, "select 8") == 8, "after");
        }
        System.out.println(database + " done");
    }

    public static void main(String[] databases) throws Exception {
        for (String database : databases) use(database);
    }
}
