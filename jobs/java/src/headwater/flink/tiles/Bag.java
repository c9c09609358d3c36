package headwater.flink.tiles;

import java.io.IOException;
import java.util.Map;
import java.util.TreeMap;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;

/**
 * The values of changing rows in order, and how many there are of each: so that the next smallest is known when the
 * smallest is taken back. What a change is yet to take from another tile's count is below zero.
 */
final class Bag extends Accumulator {
    private final TreeMap<Object, Long> counts = new TreeMap<>(Values::compare);

    @Override
    void add(Object value, long time) {
        change(1, value, null);
    }

    @Override
    void change(int sign, Object value, Position at) {
        // 0.0 and -0.0 are one.
        add(value instanceof Double && (Double) value == 0.0 ? (Object) 0.0 : value, (Long) (long) sign);
    }

    @Override
    void merge(Accumulator other) {
        ((Bag) other).counts.forEach(this::add);
    }

    private void add(Object value, Long many) {
        counts.merge(value, many, (one, more) -> one + more == 0 ? null : (Long) (one + more));
    }

    Object smallest() {
        return counts.isEmpty() ? null : counts.firstKey();
    }

    Object largest() {
        return counts.isEmpty() ? null : counts.lastKey();
    }

    /** How many different values there are. */
    long size() {
        return counts.size();
    }

    @Override
    void write(DataOutputView out) throws IOException {
        out.writeInt(counts.size());
        for (Map.Entry<Object, Long> each : counts.entrySet()) {
            Values.write(each.getKey(), out);
            out.writeLong(each.getValue());
        }
    }

    @Override
    void read(DataInputView in) throws IOException {
        counts.clear();
        for (int left = in.readInt(); left > 0; left--) {
            counts.put(Values.read(in), in.readLong());
        }
    }
}
