package headwater.flink.tiles;

import java.io.IOException;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;

/** What is known of the records of one key in one span of event time. */
public final class Tile {
    long records;
    private final Kind[] kinds;
    final Accumulator[] slots;

    Tile(Kind[] kinds) {
        this.kinds = kinds;
        slots = new Accumulator[kinds.length];
        for (int slot = 0; slot < slots.length; slot++) {
            slots[slot] = kinds[slot].fresh();
        }
    }

    void merge(Tile other) {
        records += other.records;
        for (int slot = 0; slot < slots.length; slot++) {
            slots[slot].merge(other.slots[slot]);
        }
    }

    /** The accumulators of some slots alone: the others are not asked for any more. */
    void merge(Tile other, int[] only) {
        records += other.records;
        for (int slot : only) {
            slots[slot].merge(other.slots[slot]);
        }
    }

    void write(DataOutputView out) throws IOException {
        out.writeLong(records);
        out.writeByte(kinds.length);
        for (int slot = 0; slot < slots.length; slot++) {
            out.writeByte(kinds[slot].ordinal());
            slots[slot].write(out);
        }
    }

    static Tile read(DataInputView in) throws IOException {
        long records = in.readLong();
        int size = in.readUnsignedByte();
        Kind[] kinds = new Kind[size];
        Accumulator[] slots = new Accumulator[size];
        for (int slot = 0; slot < size; slot++) {
            kinds[slot] = Kind.of(in.readByte());
            slots[slot] = kinds[slot].fresh();
            slots[slot].read(in);
        }
        return new Tile(records, kinds, slots);
    }

    private Tile(long records, Kind[] kinds, Accumulator[] slots) {
        this.records = records;
        this.kinds = kinds;
        this.slots = slots;
    }
}
