package headwater.flink;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;
import java.util.Arrays;

/** Avro's binary encoding (specification 1.11, "Binary Encoding") written to one buffer, which is kept. */
final class WireOutput {
    private static final VarHandle INTS = MethodHandles.byteArrayViewVarHandle(int[].class, ByteOrder.LITTLE_ENDIAN);
    private static final VarHandle LONGS = MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.LITTLE_ENDIAN);
    private static final int VARINT_BYTES_MAX = 10;

    private byte[] buffer = new byte[512];
    private int position;

    void reset() {
        position = 0;
    }

    byte[] copy() {
        return Arrays.copyOf(buffer, position);
    }

    /** The Confluent wire format's: a zero byte and the schema id, big-endian. */
    void writeHeader(int schemaId) {
        int at = reserve(WireFormat.HEADER_BYTES);
        buffer[at] = 0;
        INTS.set(buffer, at + 1, Integer.reverseBytes(schemaId));
    }

    void writeBoolean(boolean value) {
        int at = reserve(1);
        buffer[at] = (byte) (value ? 1 : 0);
    }

    void writeLong(long value) {
        ensure(VARINT_BYTES_MAX);
        long bits = (value << 1) ^ (value >> 63);
        while ((bits & ~0x7fL) != 0) {
            buffer[position++] = (byte) (bits | 0x80);
            bits >>>= 7;
        }
        buffer[position++] = (byte) bits;
    }

    void writeFloat(float value) {
        int at = reserve(4);
        INTS.set(buffer, at, Float.floatToRawIntBits(value));
    }

    void writeDouble(double value) {
        int at = reserve(8);
        LONGS.set(buffer, at, Double.doubleToRawLongBits(value));
    }

    void writeBytes(byte[] bytes) {
        writeLong(bytes.length);
        writeFixed(bytes);
    }

    void writeFixed(byte[] bytes) {
        int at = reserve(bytes.length);
        System.arraycopy(bytes, 0, buffer, at, bytes.length);
    }

    /** Room for so many bytes. May replace the buffer: call it before naming the buffer, not beside it. */
    private int reserve(int length) {
        ensure(length);
        int at = position;
        position += length;
        return at;
    }

    private void ensure(int length) {
        if (length > buffer.length - position) {
            buffer = Arrays.copyOf(buffer, Math.max(buffer.length * 2, position + length));
        }
    }
}
