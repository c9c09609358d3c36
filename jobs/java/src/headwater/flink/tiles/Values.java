package headwater.flink.tiles;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.math.BigDecimal;
import java.util.Arrays;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;
import org.apache.flink.table.data.DecimalData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.data.TimestampData;

/** Values of columns: Flink's internal objects, as an accumulator may keep them. */
final class Values {
    private static final int NULL = 0;
    private static final int LONG = 1;
    private static final int DOUBLE = 2;
    private static final int STRING = 3;
    private static final int TIMESTAMP = 4;
    private static final int DECIMAL = 5;
    private static final int BYTES = 6;
    private static final int BOOLEAN = 7;

    private Values() {}

    /**
     * A value to be kept: whole numbers as Long, floating-point ones as Double, text apart from the record's memory,
     * which the next record overwrites. Null and what is not a number are both no value.
     */
    static Object kept(Object value) {
        if (value == null) {
            return null;
        }
        if (value instanceof Long || value instanceof TimestampData || value instanceof DecimalData) {
            return value;
        }
        if (value instanceof Double) {
            return ((Double) value).isNaN() ? null : value;
        }
        if (value instanceof StringData) {
            return StringData.fromBytes(((StringData) value).toBytes());
        }
        if (value instanceof Float) {
            return ((Float) value).isNaN() ? null : (Object) ((Float) value).doubleValue();
        }
        return value instanceof Number ? (Object) ((Number) value).longValue() : value;
    }

    static double asDouble(Object value) {
        return value instanceof DecimalData
                ? ((DecimalData) value).toBigDecimal().doubleValue()
                : ((Number) value).doubleValue();
    }

    @SuppressWarnings({"unchecked", "rawtypes"})
    static int compare(Object one, Object other) {
        if (one instanceof byte[]) {
            return Arrays.compareUnsigned((byte[]) one, (byte[]) other);
        }
        return ((Comparable) one).compareTo(other);
    }

    /** The value as one that equals its equals: bytes as text of one char a byte; 0.0 and -0.0 are one. */
    static Object hashable(Object value) {
        if (value instanceof byte[]) {
            return StringData.fromString(new String((byte[]) value, StandardCharsets.ISO_8859_1));
        }
        return value instanceof Double && (Double) value == 0.0 ? (Object) 0.0 : value;
    }

    static void write(Object value, DataOutputView out) throws IOException {
        if (value == null) {
            out.writeByte(NULL);
        } else if (value instanceof Long) {
            out.writeByte(LONG);
            out.writeLong((Long) value);
        } else if (value instanceof Double) {
            out.writeByte(DOUBLE);
            out.writeDouble((Double) value);
        } else if (value instanceof StringData) {
            out.writeByte(STRING);
            writeBytes(((StringData) value).toBytes(), out);
        } else if (value instanceof TimestampData) {
            out.writeByte(TIMESTAMP);
            out.writeLong(((TimestampData) value).getMillisecond());
            out.writeInt(((TimestampData) value).getNanoOfMillisecond());
        } else if (value instanceof DecimalData) {
            DecimalData decimal = (DecimalData) value;
            out.writeByte(DECIMAL);
            out.writeByte(decimal.precision());
            out.writeByte(decimal.scale());
            out.writeUTF(decimal.toBigDecimal().toString());
        } else if (value instanceof byte[]) {
            out.writeByte(BYTES);
            writeBytes((byte[]) value, out);
        } else {
            out.writeByte(BOOLEAN);
            out.writeBoolean((Boolean) value);
        }
    }

    static Object read(DataInputView in) throws IOException {
        int kind = in.readByte();
        switch (kind) {
            case NULL:
                return null;
            case LONG:
                return in.readLong();
            case DOUBLE:
                return in.readDouble();
            case STRING:
                return StringData.fromBytes(readBytes(in));
            case TIMESTAMP:
                return TimestampData.fromEpochMillis(in.readLong(), in.readInt());
            case DECIMAL:
                int precision = in.readByte();
                int scale = in.readByte();
                return DecimalData.fromBigDecimal(new BigDecimal(in.readUTF()), precision, scale);
            case BYTES:
                return readBytes(in);
            case BOOLEAN:
                return in.readBoolean();
            default:
                throw new IOException("expected a kind of value, 0 to 7, in the state of a tile, got " + kind);
        }
    }

    private static void writeBytes(byte[] bytes, DataOutputView out) throws IOException {
        out.writeInt(bytes.length);
        out.write(bytes);
    }

    private static byte[] readBytes(DataInputView in) throws IOException {
        byte[] bytes = new byte[in.readInt()];
        in.readFully(bytes);
        return bytes;
    }
}
