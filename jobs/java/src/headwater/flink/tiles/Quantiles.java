package headwater.flink.tiles;

import java.io.IOException;
import java.util.Map;
import java.util.TreeMap;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;

/**
 * Quantiles with a relative error of at most 1 %: counts of values in buckets whose bounds grow by a constant factor.
 *
 * <p>Masson, Rim, Lee: DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees, PVLDB 12
 * (2019). Unbounded: values of one sign spread over n orders of magnitude fill at most 116 n buckets.
 */
final class Quantiles extends Accumulator {
    static final double RELATIVE_ERROR = 0.01;
    private static final double GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR);
    private static final double LOG_GAMMA = Math.log(GAMMA);

    private final TreeMap<Integer, Long> negative = new TreeMap<>();
    private final TreeMap<Integer, Long> positive = new TreeMap<>();
    private long zeros;
    private long count;

    @Override
    void add(Object value, long time) {
        change(1, value, null);
    }

    @Override
    void change(int sign, Object value, Position at) {
        double number = Values.asDouble(value);
        count += sign;
        if (number == 0) {
            zeros += sign;
        } else {
            int bucket = (int) Math.ceil(Math.log(Math.abs(number)) / LOG_GAMMA);
            (number > 0 ? positive : negative).merge(bucket, (long) sign, Quantiles::sum);
        }
    }

    @Override
    void merge(Accumulator other) {
        Quantiles that = (Quantiles) other;
        that.negative.forEach((bucket, many) -> negative.merge(bucket, many, Quantiles::sum));
        that.positive.forEach((bucket, many) -> positive.merge(bucket, many, Quantiles::sum));
        zeros += that.zeros;
        count += that.count;
    }

    /** The value of rank floor(q (n - 1)), counted from 0; null of no values. */
    Double at(double q) {
        if (count == 0) {
            return null;
        }
        long rank = (long) Math.floor(q * (count - 1));
        for (Map.Entry<Integer, Long> each : negative.descendingMap().entrySet()) {
            rank -= each.getValue();
            if (rank < 0) {
                return -middle(each.getKey());
            }
        }
        rank -= zeros;
        if (rank < 0) {
            return 0.0;
        }
        for (Map.Entry<Integer, Long> each : positive.entrySet()) {
            rank -= each.getValue();
            if (rank < 0) {
                return middle(each.getKey());
            }
        }
        throw new IllegalStateException("the counts of a quantile sketch do not add up");
    }

    /** Nothing where it is 0: a bucket of which everything was taken back goes. */
    private static Long sum(Long one, Long other) {
        long sum = one + other;
        return sum == 0 ? null : (Long) sum;
    }

    private static double middle(int bucket) {
        return bucket == Integer.MAX_VALUE ? Double.POSITIVE_INFINITY : 2 * Math.exp(bucket * LOG_GAMMA) / (GAMMA + 1);
    }

    @Override
    void write(DataOutputView out) throws IOException {
        out.writeLong(count);
        out.writeLong(zeros);
        write(negative, out);
        write(positive, out);
    }

    @Override
    void read(DataInputView in) throws IOException {
        count = in.readLong();
        zeros = in.readLong();
        read(negative, in);
        read(positive, in);
    }

    private static void write(TreeMap<Integer, Long> buckets, DataOutputView out) throws IOException {
        out.writeInt(buckets.size());
        for (Map.Entry<Integer, Long> each : buckets.entrySet()) {
            out.writeInt(each.getKey());
            out.writeLong(each.getValue());
        }
    }

    private static void read(TreeMap<Integer, Long> buckets, DataInputView in) throws IOException {
        buckets.clear();
        for (int left = in.readInt(); left > 0; left--) {
            buckets.put(in.readInt(), in.readLong());
        }
    }
}
