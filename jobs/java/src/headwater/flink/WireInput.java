package headwater.flink;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;

/**
 * Avro's binary encoding (specification 1.11, "Binary Encoding") read from one byte array.
 *
 * <p>{@link #reset} starts a record and forgets everything of the last, so a bad record cannot misalign the next. Every
 * length is compared with what is left before anything is allocated for it.
 */
final class WireInput {
    private static final VarHandle INTS = MethodHandles.byteArrayViewVarHandle(int[].class, ByteOrder.LITTLE_ENDIAN);
    private static final VarHandle LONGS = MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.LITTLE_ENDIAN);
    // Deeper nesting than any schema of ours; far shallower than the stack.
    private static final int DEPTH_MAX = 64;

    private byte[] data = new byte[0];
    private int position;
    private int depth;

    void reset(byte[] bytes, int from) {
        data = bytes;
        position = from;
        depth = 0;
    }

    byte[] data() {
        return data;
    }

    int position() {
        return position;
    }

    int remaining() {
        return data.length - position;
    }

    /** Enter a nested record. */
    void enter() {
        if (++depth > DEPTH_MAX) {
            throw bad("at most " + DEPTH_MAX + " nested records", "one more");
        }
    }

    void leave() {
        depth--;
    }

    boolean readBoolean() {
        int at = take(1, "a boolean");
        byte value = data[at];
        if (value != 0 && value != 1) {
            throw new BadRecord(at, "a boolean, 0 or 1,", Integer.toString(value & 0xff));
        }
        return value == 1;
    }

    int readInt() {
        int start = position;
        long value = readLong("an int");
        if (value != (int) value) {
            throw new BadRecord(start, "an int of 32 bits", Long.toString(value));
        }
        return (int) value;
    }

    long readLong() {
        return readLong("a long");
    }

    private long readLong(String what) {
        int start = position;
        long bits = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            if (position >= data.length) {
                throw new BadRecord(start, what, "the end of the record inside it");
            }
            byte next = data[position++];
            if (shift == 63 && next != 0 && next != 1) {
                break;
            }
            bits |= (next & 0x7fL) << shift;
            if (next >= 0) {
                return (bits >>> 1) ^ -(bits & 1);
            }
        }
        throw new BadRecord(start, what + " of at most 10 bytes and 64 bits", "a longer one");
    }

    float readFloat() {
        return Float.intBitsToFloat((int) INTS.get(data, take(4, "the 4 bytes of a float")));
    }

    double readDouble() {
        return Double.longBitsToDouble((long) LONGS.get(data, take(8, "the 8 bytes of a double")));
    }

    /** The index of a union's branch or an enum's symbol, below {@code count}. */
    int readIndex(int count, String what) {
        int start = position;
        long index = readLong(what);
        if (index < 0 || index >= count) {
            throw new BadRecord(start, what + " from 0 to " + (count - 1), Long.toString(index));
        }
        return (int) index;
    }

    /** A length in bytes, and then that many bytes: returns the length, and {@link #position} is the first of them. */
    int readLength(String what) {
        int start = position;
        long length = readLong("the length of " + what);
        if (length < 0 || length > remaining()) {
            throw new BadRecord(start, "the length of " + what + ", 0 to the " + remaining() + " bytes left,",
                    Long.toString(length));
        }
        return (int) length;
    }

    /** Step over bytes and return the position of the first. */
    int take(int length, String what) {
        int start = position;
        if (length > data.length - start) {
            throw bad(what, remaining() == 0 ? "the end of the record" : "only " + remaining() + " bytes");
        }
        position = start + length;
        return start;
    }

    /** Step over a string and its length, having seen that it is UTF-8; returns the length. */
    int takeString() {
        int length = readLength("a string");
        int start = take(length, "a string");
        requireUtf8(start, length);
        return length;
    }

    /**
     * The number of items in the next block of an array or map, 0 after the last.
     *
     * @param itemBytesMin the fewest bytes that an item can take; bounds the count
     */
    long readBlockCount(int itemBytesMin) {
        int start = position;
        long count = readLong("the item count of a block");
        if (count < 0) {
            count = -count;
            readLength("a block");
        }
        if (count < 0 || (itemBytesMin > 0 && count > remaining() / itemBytesMin)) {
            throw new BadRecord(start, "a block of items that fits in the " + remaining() + " bytes left",
                    Long.toUnsignedString(count) + " items of at least " + itemBytesMin + " bytes");
        }
        return count;
    }

    BadRecord bad(String expected, String got) {
        return new BadRecord(position, expected, got);
    }

    private void requireUtf8(int start, int length) {
        if (Utf8.firstBad(data, start, start + length) >= 0) {
            throw new BadRecord(start, "a string in UTF-8", "bytes that are not");
        }
    }
}
