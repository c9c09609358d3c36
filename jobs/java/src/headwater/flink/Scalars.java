package headwater.flink;

import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.flink.table.data.DecimalData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.data.TimestampData;

/** Avro's primitive types, enums, fixed and logical types. */
final class Scalars {
    private Scalars() {}

    static final class Booleans extends Value {
        Booleans() {
            super(1);
        }

        @Override
        Object read(WireInput in) {
            return in.readBoolean();
        }

        @Override
        void write(Object value, WireOutput out) {
            out.writeBoolean((Boolean) value);
        }
    }

    /** INT, and with a range also DATE (days since 1970) and TIME (milliseconds of the day). */
    static final class Ints extends Value {
        private final String what;
        private final int min;
        private final int max;

        Ints(String what, int min, int max) {
            super(1);
            this.what = what;
            this.min = min;
            this.max = max;
        }

        @Override
        Object read(WireInput in) {
            int start = in.position();
            int value = in.readInt();
            if (value < min || value > max) {
                throw new BadRecord(start, expected(), Integer.toString(value));
            }
            return value;
        }

        @Override
        void write(Object value, WireOutput out) {
            int number = (Integer) value;
            if (number < min || number > max) {
                throw new BadRecord(expected(), Integer.toString(number));
            }
            out.writeLong(number);
        }

        private String expected() {
            return what + " from " + min + " to " + max;
        }
    }

    static final class Longs extends Value {
        Longs() {
            super(1);
        }

        @Override
        Object read(WireInput in) {
            return in.readLong();
        }

        @Override
        void write(Object value, WireOutput out) {
            out.writeLong((Long) value);
        }
    }

    /** TIMESTAMP and TIMESTAMP_LTZ in milli- or microseconds; a wild one would carry the watermark away with it. */
    static final class Timestamps extends Value {
        private static final long MIN_MS = -62_135_596_800_000L;
        private static final long MAX_MS = 253_402_300_799_999L;

        private final int unitsPerMs;

        Timestamps(int unitsPerMs) {
            super(1);
            this.unitsPerMs = unitsPerMs;
        }

        @Override
        Object read(WireInput in) {
            int start = in.position();
            long value = in.readLong();
            long millis = Math.floorDiv(value, unitsPerMs);
            if (millis < MIN_MS || millis > MAX_MS) {
                throw new BadRecord(start, "a timestamp in the years 1 to 9999", Long.toString(value));
            }
            int nanos = (int) Math.floorMod(value, (long) unitsPerMs) * (1_000_000 / unitsPerMs);
            return TimestampData.fromEpochMillis(millis, nanos);
        }

        @Override
        void write(Object value, WireOutput out) {
            TimestampData timestamp = (TimestampData) value;
            long millis = timestamp.getMillisecond();
            if (millis < MIN_MS || millis > MAX_MS) {
                throw new BadRecord("a timestamp in the years 1 to 9999", millis + " ms");
            }
            out.writeLong(millis * unitsPerMs + timestamp.getNanoOfMillisecond() / (1_000_000 / unitsPerMs));
        }
    }

    static final class Floats extends Value {
        Floats() {
            super(4);
        }

        @Override
        Object read(WireInput in) {
            return in.readFloat();
        }

        @Override
        void write(Object value, WireOutput out) {
            out.writeFloat((Float) value);
        }
    }

    static final class Doubles extends Value {
        Doubles() {
            super(8);
        }

        @Override
        Object read(WireInput in) {
            return in.readDouble();
        }

        @Override
        void write(Object value, WireOutput out) {
            out.writeDouble((Double) value);
        }
    }

    /** STRING: a view of the record's own bytes, not a copy. */
    static final class Strings extends Value {
        Strings() {
            super(1);
        }

        @Override
        Object read(WireInput in) {
            int length = in.takeString();
            return StringData.fromBytes(in.data(), in.position() - length, length);
        }

        @Override
        void skip(WireInput in) {
            in.takeString();
        }

        @Override
        void write(Object value, WireOutput out) {
            byte[] text = ((StringData) value).toBytes();
            requireUtf8(text);
            out.writeBytes(text);
        }

        /** SQL can make a STRING of any bytes; written as they are, they would come back as a bad record. */
        private static void requireUtf8(byte[] text) {
            for (byte each : text) {
                if (each < 0) {
                    try {
                        StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(text));
                        return;
                    } catch (CharacterCodingException notText) {
                        throw new BadRecord("a string in UTF-8", "bytes that are not");
                    }
                }
            }
        }
    }

    static final class Bytes extends Value {
        Bytes() {
            super(1);
        }

        @Override
        Object read(WireInput in) {
            int length = in.readLength("bytes");
            int start = in.take(length, "bytes");
            return Arrays.copyOfRange(in.data(), start, start + length);
        }

        @Override
        void skip(WireInput in) {
            in.take(in.readLength("bytes"), "bytes");
        }

        @Override
        void write(Object value, WireOutput out) {
            out.writeBytes((byte[]) value);
        }
    }

    static final class Fixed extends Value {
        private final int size;

        Fixed(int size) {
            super(size);
            this.size = size;
        }

        @Override
        Object read(WireInput in) {
            int start = in.take(size, size + " bytes of a fixed");
            return Arrays.copyOfRange(in.data(), start, start + size);
        }

        @Override
        void write(Object value, WireOutput out) {
            byte[] bytes = (byte[]) value;
            if (bytes.length != size) {
                throw new BadRecord(size + " bytes of a fixed", bytes.length + " bytes");
            }
            out.writeFixed(bytes);
        }
    }

    /** DECIMAL over bytes ({@code size < 0}) or fixed: the unscaled value, big-endian, in two's complement. */
    static final class Decimals extends Value {
        // Twice what 38 digits need: room for sign bytes that nobody has to write, none to burn time on.
        private static final int LENGTH_MAX = 32;

        private final int size;
        private final int precision;
        private final int scale;

        Decimals(int size, int precision, int scale) {
            super(size < 0 ? 1 : size);
            this.size = size;
            this.precision = precision;
            this.scale = scale;
        }

        @Override
        Object read(WireInput in) {
            int at = in.position();
            int length = size < 0 ? in.readLength("a decimal") : size;
            int start = in.take(length, "the " + length + " bytes of a decimal");
            DecimalData value = length == 0 || (size < 0 && length > LENGTH_MAX) ? null : DecimalData.fromUnscaledBytes(
                    Arrays.copyOfRange(in.data(), start, start + length), precision, scale);
            if (value == null) {
                throw new BadRecord(at, "a decimal of at most " + precision + " digits",
                        length == 0 ? "no bytes" : "a larger one of " + length + " bytes");
            }
            return value;
        }

        @Override
        void write(Object value, WireOutput out) {
            byte[] unscaled = ((DecimalData) value).toUnscaledBytes();
            if (size < 0) {
                out.writeBytes(unscaled);
                return;
            }
            byte[] padded = new byte[size];
            Arrays.fill(padded, (byte) (new BigInteger(unscaled).signum() < 0 ? -1 : 0));
            System.arraycopy(unscaled, 0, padded, size - unscaled.length, unscaled.length);
            out.writeFixed(padded);
        }
    }

    /** STRING over an Avro enum. */
    static final class Enums extends Value {
        private final StringData[] symbols;
        private final Map<StringData, Integer> indexes = new HashMap<>();

        Enums(List<String> names) {
            super(1);
            symbols = names.stream().map(StringData::fromString).toArray(StringData[]::new);
            for (int i = 0; i < symbols.length; i++) {
                indexes.put(symbols[i], i);
            }
        }

        @Override
        Object read(WireInput in) {
            return symbols[in.readIndex(symbols.length, "the index of an enum's symbol")];
        }

        @Override
        void write(Object value, WireOutput out) {
            Integer index = indexes.get(value);
            if (index == null) {
                throw new BadRecord("one of the symbols " + Arrays.toString(symbols), "'" + value + "'");
            }
            out.writeLong(index);
        }
    }

    /** Avro's null: no SQL type, but a field of it can be stepped over. */
    static final class Nulls extends Value {
        Nulls() {
            super(0);
        }

        @Override
        Object read(WireInput in) {
            return null;
        }

        @Override
        void write(Object value, WireOutput out) {
            throw new BadRecord("NULL", value.toString());
        }
    }
}
