package headwater.flink.tiles;

import java.io.IOException;
import java.util.HashSet;
import java.util.Set;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;
import org.apache.flink.table.data.DecimalData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.data.TimestampData;

/**
 * How many distinct values there are, in 4 KiB: exact up to {@value #EXACT}, above that with a standard error of 1.6 %.
 *
 * <p>HyperLogLog with 4,096 registers (Flajolet, Fusy, Gandouet, Meunier 2007), read by the improved raw estimator of
 * Ertl: New cardinality estimation algorithms for HyperLogLog sketches, arXiv 1702.01284, which needs no correction for
 * small or large sets.
 */
final class ApproximateDistinct extends Accumulator {
    private static final int EXACT = 256;
    private static final int PRECISION = 12;
    private static final int REGISTERS = 1 << PRECISION;
    private static final int RANKS = 64 - PRECISION;

    /** Hashes of the values while they are few, else null. */
    private Set<Long> few = new HashSet<>();

    private byte[] registers;

    @Override
    void add(Object value, long time) {
        take(hash(Values.hashable(value)));
    }

    @Override
    void merge(Accumulator other) {
        ApproximateDistinct that = (ApproximateDistinct) other;
        if (that.few != null) {
            that.few.forEach(this::take);
            return;
        }
        spread();
        for (int at = 0; at < REGISTERS; at++) {
            registers[at] = (byte) Math.max(registers[at], that.registers[at]);
        }
    }

    long estimate() {
        if (few != null) {
            return few.size();
        }
        int[] many = new int[RANKS + 2];
        for (byte rank : registers) {
            many[rank]++;
        }
        double z = REGISTERS * tau(1 - (double) many[RANKS + 1] / REGISTERS);
        for (int rank = RANKS; rank >= 1; rank--) {
            z = 0.5 * (z + many[rank]);
        }
        z += REGISTERS * sigma((double) many[0] / REGISTERS);
        return Math.round(REGISTERS / (2 * Math.log(2)) * REGISTERS / z);
    }

    private void take(long hash) {
        if (few != null) {
            few.add(hash);
            if (few.size() > EXACT) {
                spread();
            }
            return;
        }
        int register = (int) (hash >>> RANKS);
        // A bit set below the register's own ends the run of zeros at the latest there.
        int rank = Math.min(Long.numberOfLeadingZeros(hash << PRECISION), RANKS) + 1;
        registers[register] = (byte) Math.max(registers[register], rank);
    }

    private void spread() {
        if (few != null) {
            Set<Long> hashes = few;
            few = null;
            registers = new byte[REGISTERS];
            hashes.forEach(this::take);
        }
    }

    private static double sigma(double x) {
        if (x == 1) {
            return Double.POSITIVE_INFINITY;
        }
        double y = 1;
        double z = x;
        for (double before = Double.NaN; z != before; ) {
            x *= x;
            before = z;
            z += x * y;
            y += y;
        }
        return z;
    }

    private static double tau(double x) {
        if (x == 0 || x == 1) {
            return 0;
        }
        double y = 1;
        double z = 1 - x;
        for (double before = Double.NaN; z != before; ) {
            x = Math.sqrt(x);
            before = z;
            y *= 0.5;
            z -= (1 - x) * (1 - x) * y;
        }
        return z / 3;
    }

    private static long hash(Object value) {
        if (value instanceof Long) {
            return mixed((Long) value);
        }
        if (value instanceof Double) {
            return mixed(Double.doubleToLongBits((Double) value));
        }
        if (value instanceof TimestampData) {
            return mixed(mixed(((TimestampData) value).getMillisecond()) + ((TimestampData) value).getNanoOfMillisecond());
        }
        if (value instanceof StringData) {
            return bytes(((StringData) value).toBytes());
        }
        if (value instanceof DecimalData) {
            return bytes(((DecimalData) value).toUnscaledBytes());
        }
        return mixed(((Boolean) value) ? 1 : 2);
    }

    private static long bytes(byte[] bytes) {
        long hash = 0x9E3779B97F4A7C15L + bytes.length;
        for (int at = 0; at < bytes.length; at += 8) {
            long word = 0;
            for (int next = at; next < Math.min(at + 8, bytes.length); next++) {
                word = word << 8 | (bytes[next] & 0xFF);
            }
            hash = mixed(hash ^ word);
        }
        return hash;
    }

    /** The finaliser of SplitMix64: every bit of the argument changes every bit of the result half of the time. */
    private static long mixed(long value) {
        long z = value + 0x9E3779B97F4A7C15L;
        z = (z ^ (z >>> 30)) * 0xBF58476D1CE4E5B9L;
        z = (z ^ (z >>> 27)) * 0x94D049BB133111EBL;
        return z ^ (z >>> 31);
    }

    @Override
    void write(DataOutputView out) throws IOException {
        out.writeInt(few == null ? -1 : few.size());
        if (few == null) {
            out.write(registers);
        } else {
            for (long each : few) {
                out.writeLong(each);
            }
        }
    }

    @Override
    void read(DataInputView in) throws IOException {
        int size = in.readInt();
        if (size < 0) {
            few = null;
            registers = new byte[REGISTERS];
            in.readFully(registers);
        } else {
            few = new HashSet<>();
            for (int left = size; left > 0; left--) {
                few.add(in.readLong());
            }
        }
    }
}
