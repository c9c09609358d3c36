package headwater.flink;

/** One Avro type on the wire and Flink's internal form of it. Stateless, so one instance serves a whole subtask. */
abstract class Value {
    /** The fewest bytes that a value takes; 0 only where every value takes none. */
    final int bytesMin;

    Value(int bytesMin) {
        this.bytesMin = bytesMin;
    }

    /** The next value, as Flink's internal form. */
    abstract Object read(WireInput in);

    /** Step over the next value, with the same checks: a record is good or bad whatever a query reads of it. */
    void skip(WireInput in) {
        read(in);
    }

    /** Append a value that is not null. */
    abstract void write(Object value, WireOutput out);

    /** Append a value or null. */
    void writeNullable(Object value, WireOutput out) {
        if (value == null) {
            throw new BadRecord("a value, as the field is not nullable in Avro", "NULL");
        }
        write(value, out);
    }
}
