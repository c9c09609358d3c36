package headwater.flink;

/**
 * A record or row that is not what the schema says: what was expected, what came, in which field, at which byte.
 *
 * <p>Carries no stack trace: a flood of bad records must cost no more than a flood of good ones.
 */
final class BadRecord extends RuntimeException {
    private static final long serialVersionUID = 1L;

    private final String problem;
    private String path = "";

    BadRecord(String expected, String got) {
        super(null, null, false, false);
        this.problem = "expected " + expected + ", got " + got;
    }

    BadRecord(int position, String expected, String got) {
        this(expected + " at byte " + position, got);
    }

    /** The same problem, seen from one level further out. */
    BadRecord within(String step) {
        path = path.isEmpty() || path.startsWith("[") ? step + path : step + "." + path;
        return this;
    }

    @Override
    public String getMessage() {
        return path.isEmpty() ? problem : "field " + path + ": " + problem;
    }
}
