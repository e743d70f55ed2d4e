// JDBC on the console: see README.md. Prints what it has done, a line each.

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;

public class ConsoleJdbc {
    static void check(boolean fine, String what) {
        if (!fine) throw new IllegalStateException("wrong: " + what);
    }

    static String text(Statement statement, String sql) throws SQLException {
        try (ResultSet rows = statement.executeQuery(sql)) {
            check(rows.next(), sql);
            return rows.getString(1);
        }
    }

    static Connection open(String mode) throws SQLException {
        Properties wanted = new Properties();
        wanted.setProperty("user", System.getenv("PGUSER"));
        wanted.setProperty("password", System.getenv("PGPASSWORD"));
        wanted.setProperty("preferQueryMode", mode);
        wanted.setProperty("prepareThreshold", "1");
        wanted.setProperty("ApplicationName", "zoo");
        wanted.setProperty("targetServerType", "primary");
        String where = System.getenv("PGHOST") + ":" + System.getenv("PGPORT");
        return DriverManager.getConnection("jdbc:postgresql://" + where + "/pgbouncer", wanted);
    }

    static void transactions(Connection connection, Statement statement) throws SQLException {
        connection.setAutoCommit(false);
        check(connection.getTransactionIsolation() == Connection.TRANSACTION_READ_COMMITTED, "isolation");
        check(text(statement, "SHOW STATE").equals("active"), "state");
        try {
            statement.execute("SHOW nothing_of_the_kind");
            check(false, "refused");
        } catch (SQLException error) {
            check(error.getSQLState().equals("08P01"), error.toString());
        }
        try {
            statement.execute("SHOW STATE");
            check(false, "failed block");
        } catch (SQLException error) {
            check(error.getSQLState().equals("25P02"), error.toString());
        }
        connection.rollback();
        connection.setReadOnly(true);
        // More than one series takes the rows of one portal.
        statement.setFetchSize(5);
        int count = 0;
        try (ResultSet rows = statement.executeQuery("SHOW CONFIG")) {
            while (rows.next()) count++;
        }
        check(count > 90, "rows " + count);
        statement.setFetchSize(0);
        connection.commit();
        connection.setReadOnly(false);
        connection.setAutoCommit(true);
    }

    static void use(String mode) throws Exception {
        try (Connection connection = open(mode); Statement statement = connection.createStatement()) {
            check(connection.isValid(5), "valid");
            check(text(statement, "select version()").contains("PgBouncer"), "version");
            check(text(statement, "SELECT current_schema()").equals("public"), "schema");
            check(text(statement, "select current_database()").equals("pgbouncer"), "database");
            check(text(statement, "select current_user").equals(System.getenv("PGUSER")), "user");
            check(text(statement, "/* x */ SHOW VERSION -- y").startsWith("PgBouncer"), "comments");
            check(text(statement, "select 1").equals("1"), "one");
            statement.execute("SET SESSION search_path TO public");
            statement.execute("SET TIME ZONE 'UTC'; SHOW VERSION");
            statement.execute("-- ping");
            try (PreparedStatement prepared =
                    connection.prepareStatement("select datname from pg_catalog.pg_database where datname = ?")) {
                for (int at = 0; at < 3; at++) {
                    prepared.setString(1, "p0");
                    try (ResultSet rows = prepared.executeQuery()) {
                        check(rows.next() && rows.getString(1).equals("p0"), "prepared");
                    }
                }
            }
            transactions(connection, statement);
            check(connection.isValid(5), "still valid");
            System.out.println(mode);
        }
    }

    public static void main(String[] modes) throws Exception {
        for (String mode : modes) use(mode);
    }
}
