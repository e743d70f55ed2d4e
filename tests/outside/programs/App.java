// JDBC: see README.md. Arguments: preferQueryMode, prepareThreshold.

import java.io.StringReader;
import java.io.StringWriter;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;

public class App {
    static final String TABLE = "app_" + System.getenv("APP_ID");
    static final boolean SESSION = "1".equals(System.getenv("APP_SESSION"));
    static final boolean BLOCKS = !"0".equals(System.getenv("APP_BLOCKS"));
    static final int SERVERS = Integer.parseInt(System.getenv("APP_SERVERS"));
    // What a server says that has parsed the statement before or after the change.
    static final List<String> CHANGED = List.of("fine", "0A000", "08P01");
    static String mode, threshold;

    interface Step {
        void run() throws Exception;
    }

    static String state(Step step) throws Exception {
        try {
            step.run();
        } catch (BatchUpdateException error) {
            return error.getSQLState() + " " + Arrays.toString(error.getUpdateCounts());
        } catch (SQLException error) {
            return error.getSQLState();
        }
        return "fine";
    }

    static Connection open() throws SQLException {
        Properties wanted = new Properties();
        wanted.setProperty("user", System.getenv("PGUSER"));
        wanted.setProperty("sslmode", "disable");
        wanted.setProperty("preferQueryMode", mode);
        wanted.setProperty("prepareThreshold", threshold);
        String where = System.getenv("PGHOST") + ":" + System.getenv("PGPORT");
        return DriverManager.getConnection(
            "jdbc:postgresql://" + where + "/" + System.getenv("PGDATABASE"), wanted);
    }

    static int number(Connection c, String sql, int... given) throws SQLException {
        try (PreparedStatement asked = c.prepareStatement(sql)) {
            for (int n = 0; n < given.length; n++) asked.setInt(n + 1, given[n]);
            try (ResultSet rows = asked.executeQuery()) {
                rows.next();
                return rows.getInt(1);
            }
        }
    }

    static void insert(Connection c, int n, String text) throws SQLException {
        try (PreparedStatement asked = c.prepareStatement("insert into " + TABLE + " (n, t) values (?, ?)")) {
            asked.setInt(1, n);
            asked.setString(2, text);
            asked.executeUpdate();
        }
    }

    static void run(Connection c, String sql) throws SQLException {
        try (Statement statement = c.createStatement()) {
            statement.execute(sql);
        }
    }

    static void transaction(Connection c) throws Exception {
        c.setAutoCommit(false);
        insert(c, 1, "one");
        Savepoint here = c.setSavepoint();
        String failed = state(() -> insert(c, 1, "x"));
        c.rollback(here);
        insert(c, 2, "two");
        c.commit();
        c.setAutoCommit(true);
        System.out.println("transaction: " + failed + " " + number(c, "select count(*) from " + TABLE));
    }

    static void basics(Connection c) throws Exception {
        run(c, "set client_min_messages = warning");
        run(c, "drop table if exists " + TABLE);
        run(c, "create table " + TABLE + " (n int primary key, t text)");
        int total = 0;
        for (int n = 0; n < 20; n++) total += number(c, "select ?::int + 1", n);
        System.out.println("autocommit: " + total);
        if (BLOCKS) {
            transaction(c);
        } else {
            insert(c, 1, "one");
            insert(c, 2, "two");
        }
        total = 0;
        try (PreparedStatement asked = c.prepareStatement("select ?::int from " + TABLE + " where n = ?")) {
            for (int n = 0; n < 120; n++) {
                asked.setInt(1, n);
                asked.setInt(2, n % 3);
                try (ResultSet rows = asked.executeQuery()) {
                    if (rows.next()) total += rows.getInt(1);
                }
            }
        }
        System.out.println("prepared: " + total);
    }

    static void changed(Connection c) throws Exception {
        String sql = "select * from " + TABLE + " where n = ?";
        for (int n = 0; n < 8; n++) number(c, sql, 1);
        try (Connection other = open()) {
            run(other, "alter table " + TABLE + " add more int default 3");
        }
        String told = state(() -> number(c, sql, 1));
        boolean shared = SERVERS > 1 && CHANGED.contains(told);
        System.out.println("changed: " + (shared ? "as servers are shared" : told));
        // As an application does: with a new connection, which has described nothing yet.
        int refused = 0;
        try (Connection other = open()) {
            for (int n = 0; n < 8 + SERVERS; n++) {
                if (!state(() -> number(other, sql, 1)).equals("fine")) refused++;
            }
            System.out.println("changed, after: " + (refused <= SERVERS ? "" : refused) + number(other, sql, 2));
        }
    }

    static void resets(Connection c) throws Exception {
        String sql = "select n from " + TABLE + " where n = ?";
        for (int n = 0; n < 8; n++) number(c, sql, 1);
        if (BLOCKS) {
            c.setAutoCommit(false);
            for (int n = 0; n < 8; n++) number(c, sql, 1);
            c.commit();
            c.setAutoCommit(true);
        }
        run(c, "discard all");
        System.out.println("reset: " + state(() -> number(c, "select ?::int", 7)) + " " + number(c, sql, 2));
        run(c, "deallocate all");
        for (int n = 0; n < 8; n++) number(c, sql, 1);
        System.out.println("reset, after: " + number(c, sql, 2));
    }

    static void cursors(Connection c) throws Exception {
        c.setAutoCommit(false);
        int total = 0;
        for (int again = 0; again < 6; again++) {
            try (PreparedStatement asked = c.prepareStatement("select generate_series(1, ?)")) {
                asked.setInt(1, 50);
                asked.setFetchSize(7);
                try (ResultSet rows = asked.executeQuery()) {
                    while (rows.next()) total += rows.getInt(1);
                }
                // And one that is closed in the middle.
                try (ResultSet rows = asked.executeQuery()) {
                    rows.next();
                }
            }
        }
        c.commit();
        c.setAutoCommit(true);
        System.out.println("cursor: " + total);
    }

    static void copies(Connection c) throws Exception {
        CopyManager copying = c.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder rows = new StringBuilder();
        for (int n = 100; n < 300; n++) rows.append(n).append("\tx\n");
        String in = "copy " + TABLE + " (n, t) from stdin";
        long done = copying.copyIn(in, new StringReader(rows.toString()));
        String failed = state(() -> copying.copyIn(in, new StringReader(rows.toString())));
        StringWriter out = new StringWriter();
        copying.copyOut("copy (select n from " + TABLE + ") to stdout", out);
        int total = out.toString().lines().mapToInt(Integer::parseInt).sum();
        System.out.println("copy: " + done + " " + failed + " " + total);
    }

    static void batches(Connection c) throws Exception {
        String sql = "insert into " + TABLE + " (n, t) values (?, ?)";
        for (int last : new int[] {2400, 402}) {
            try (PreparedStatement asked = c.prepareStatement(sql)) {
                for (int n = 400; n < 450; n++) {
                    asked.setInt(1, n == 449 ? last : n);
                    asked.setString(2, "many");
                    asked.addBatch();
                }
                System.out.println("batch: " + state(() -> System.out.println(asked.executeBatch().length)));
            }
        }
        try (PreparedStatement asked = c.prepareStatement(sql, Statement.RETURN_GENERATED_KEYS)) {
            for (int n = 500; n < 520; n++) {
                asked.setInt(1, n);
                asked.setString(2, "keys");
                asked.addBatch();
            }
            asked.executeBatch();
            int total = 0;
            try (ResultSet keys = asked.getGeneratedKeys()) {
                while (keys.next()) total += keys.getInt(1);
            }
            System.out.println("batch with keys: " + total);
        }
        System.out.println("batch, after: " + number(c, "select count(*) from " + TABLE));
    }

    static void cancels(Connection c) throws Exception {
        try (PreparedStatement asked = c.prepareStatement("select pg_sleep(?)")) {
            asked.setInt(1, 60);
            asked.setQueryTimeout(1);
            System.out.println("cancel: " + state(asked::executeQuery));
        }
        System.out.println("cancel, after: " + number(c, "select ?::int", 8));
    }

    static void listens(Connection c) throws Exception {
        run(c, "listen " + TABLE);
        try (Connection other = open()) {
            run(other, "notify " + TABLE + ", 'hello'");
        }
        PGNotification[] told = c.unwrap(PGConnection.class).getNotifications(20000);
        System.out.println("listen: " + told[0].getName() + " " + told[0].getParameter());
    }

    public static void main(String[] words) throws Exception {
        mode = words[0];
        threshold = words[1];
        try (Connection c = open()) {
            basics(c);
            changed(c);
            resets(c);
            if (BLOCKS) cursors(c);
            if (!mode.equals("simple") || !SESSION) copies(c);
            batches(c);
            cancels(c);
            if (SESSION) listens(c);
            System.out.println("valid: " + c.isValid(5) + " " + c.getMetaData().getTables(null, "public", TABLE, null).next());
        }
        Connection gone = open();
        gone.abort(Runnable::run);
        try (Connection c = open()) {
            System.out.println("left: " + number(c, "select ?::int", 9));
        }
    }
}
