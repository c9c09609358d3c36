package headwater.flink.tiles;

import java.io.IOException;
import java.util.Map;
import java.util.TreeMap;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;

/**
 * The values of changing rows in the order of the rows. A position is that of one version of one row, so a value is
 * added once and taken back once, and the two cancel whichever comes first.
 */
final class Versions extends Accumulator {
    /** A value, and whether it is there or yet to be taken back. */
    private record Signed(Object value, boolean there) {}

    private final TreeMap<Position, Signed> values = new TreeMap<>();

    @Override
    void add(Object value, long time) {
        throw new UnsupportedOperationException("Versions need a position");
    }

    @Override
    void change(int sign, Object value, Position at) {
        put(at, new Signed(value, sign > 0));
    }

    @Override
    void merge(Accumulator other) {
        ((Versions) other).values.forEach(this::put);
    }

    private void put(Position at, Signed value) {
        values.merge(at, value, (one, more) -> one.there != more.there ? null : more);
    }

    Object first() {
        return values.isEmpty() ? null : values.firstEntry().getValue().value;
    }

    Object last() {
        return values.isEmpty() ? null : values.lastEntry().getValue().value;
    }

    @Override
    void write(DataOutputView out) throws IOException {
        out.writeInt(values.size());
        for (Map.Entry<Position, Signed> each : values.entrySet()) {
            out.writeLong(each.getKey().time());
            out.writeInt(each.getKey().partition());
            out.writeLong(each.getKey().offset());
            out.writeBoolean(each.getValue().there);
            Values.write(each.getValue().value, out);
        }
    }

    @Override
    void read(DataInputView in) throws IOException {
        values.clear();
        for (int left = in.readInt(); left > 0; left--) {
            Position at = new Position(in.readLong(), in.readInt(), in.readLong());
            boolean there = in.readBoolean();
            values.put(at, new Signed(Values.read(in), there));
        }
    }
}
