package headwater.flink.tiles;

import java.io.IOException;
import java.math.BigDecimal;
import java.util.HashSet;
import java.util.Set;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;
import org.apache.flink.table.data.DecimalData;

/**
 * What a tile keeps of one column for one kind of aggregate. Mergeable: of two, one for both; in any order, but for
 * {@link Edge}, whose times say which came first.
 *
 * <p>Some can also take values back, exactly and in any order: counts, sums of whole numbers and decimals, quantiles, and
 * those that are for changes alone: {@link ExactSum}, {@link Bag}, {@link Versions}.
 */
abstract class Accumulator {
    /** Take a value that is not null, of event time {@code time}. */
    abstract void add(Object value, long time);

    /** Add a value, or with sign -1 take one back that was added elsewhere or will be: see {@link ChangedTiles}. */
    void change(int sign, Object value, Position at) {
        throw new UnsupportedOperationException(getClass().getSimpleName() + " cannot take back a value");
    }

    /** Take what another of the same kind holds, and leave that one as it is. */
    abstract void merge(Accumulator other);

    abstract void write(DataOutputView out) throws IOException;

    abstract void read(DataInputView in) throws IOException;

    /** How many values there are. */
    static final class Count extends Accumulator {
        long count;

        @Override
        void add(Object value, long time) {
            count++;
        }

        @Override
        void change(int sign, Object value, Position at) {
            count += sign;
        }

        @Override
        void merge(Accumulator other) {
            count += ((Count) other).count;
        }

        @Override
        void write(DataOutputView out) throws IOException {
            out.writeLong(count);
        }

        @Override
        void read(DataInputView in) throws IOException {
            count = in.readLong();
        }
    }

    /** Sum and count of whole numbers; wraps beyond 64 bits, as SQL's does. */
    static final class LongSum extends Accumulator {
        long count;
        long sum;

        @Override
        void add(Object value, long time) {
            count++;
            sum += ((Number) value).longValue();
        }

        @Override
        void change(int sign, Object value, Position at) {
            count += sign;
            sum += sign * ((Number) value).longValue();
        }

        @Override
        void merge(Accumulator other) {
            count += ((LongSum) other).count;
            sum += ((LongSum) other).sum;
        }

        @Override
        void write(DataOutputView out) throws IOException {
            out.writeLong(count);
            out.writeLong(sum);
        }

        @Override
        void read(DataInputView in) throws IOException {
            count = in.readLong();
            sum = in.readLong();
        }
    }

    /** Sum and count of floating-point numbers, with Neumaier's compensation: the order of records must not show. */
    static final class DoubleSum extends Accumulator {
        long count;
        private double sum;
        private double lost;

        @Override
        void add(Object value, long time) {
            count++;
            plus(((Number) value).doubleValue());
        }

        @Override
        void merge(Accumulator other) {
            DoubleSum that = (DoubleSum) other;
            count += that.count;
            plus(that.sum);
            plus(that.lost);
        }

        double total() {
            // After an infinity the compensation is not a number, and the sum says what is to be said.
            return Double.isNaN(lost) ? sum : sum + lost;
        }

        private void plus(double value) {
            double total = sum + value;
            lost += Math.abs(sum) >= Math.abs(value) ? (sum - total) + value : (value - total) + sum;
            sum = total;
        }

        @Override
        void write(DataOutputView out) throws IOException {
            out.writeLong(count);
            out.writeDouble(sum);
            out.writeDouble(lost);
        }

        @Override
        void read(DataInputView in) throws IOException {
            count = in.readLong();
            sum = in.readDouble();
            lost = in.readDouble();
        }
    }

    /** Sum and count of decimals, exact. */
    static final class DecimalSum extends Accumulator {
        long count;
        BigDecimal sum = BigDecimal.ZERO;

        @Override
        void add(Object value, long time) {
            count++;
            sum = sum.add(((DecimalData) value).toBigDecimal());
        }

        @Override
        void change(int sign, Object value, Position at) {
            count += sign;
            BigDecimal number = ((DecimalData) value).toBigDecimal();
            sum = sign > 0 ? sum.add(number) : sum.subtract(number);
        }

        @Override
        void merge(Accumulator other) {
            count += ((DecimalSum) other).count;
            sum = sum.add(((DecimalSum) other).sum);
        }

        @Override
        void write(DataOutputView out) throws IOException {
            out.writeLong(count);
            out.writeUTF(sum.toString());
        }

        @Override
        void read(DataInputView in) throws IOException {
            count = in.readLong();
            sum = new BigDecimal(in.readUTF());
        }
    }

    /**
     * Count, mean and sum of squared differences from it.
     *
     * <p>Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample Variances (1979).
     */
    static final class Moments extends Accumulator {
        long count;
        private double mean;
        private double squares;

        @Override
        void add(Object value, long time) {
            combine(1, Values.asDouble(value), 0);
        }

        @Override
        void merge(Accumulator other) {
            Moments that = (Moments) other;
            if (that.count > 0) {
                combine(that.count, that.mean, that.squares);
            }
        }

        /** Sample variance; null of fewer than two values. */
        Double variance() {
            return count < 2 ? null : Math.max(squares, 0) / (count - 1);
        }

        private void combine(long thatCount, double thatMean, double thatSquares) {
            long total = count + thatCount;
            double apart = thatMean - mean;
            squares += thatSquares + apart * apart * ((double) count * thatCount / total);
            mean += apart * thatCount / total;
            count = total;
        }

        @Override
        void write(DataOutputView out) throws IOException {
            out.writeLong(count);
            out.writeDouble(mean);
            out.writeDouble(squares);
        }

        @Override
        void read(DataInputView in) throws IOException {
            count = in.readLong();
            mean = in.readDouble();
            squares = in.readDouble();
        }
    }

    /** The smallest or the largest value; null while there is none. */
    static final class Extreme extends Accumulator {
        private final int sign;
        Object value;

        Extreme(boolean largest) {
            sign = largest ? 1 : -1;
        }

        @Override
        void add(Object candidate, long time) {
            if (value == null || Values.compare(candidate, value) * sign > 0) {
                value = candidate;
            }
        }

        @Override
        void merge(Accumulator other) {
            if (((Extreme) other).value != null) {
                add(((Extreme) other).value, 0);
            }
        }

        @Override
        void write(DataOutputView out) throws IOException {
            Values.write(value, out);
        }

        @Override
        void read(DataInputView in) throws IOException {
            value = Values.read(in);
        }
    }

    /**
     * The first or the last value by event time; null while there is none. Of values of one time, which all lie in one
     * tile, the one that came first or last.
     */
    static final class Edge extends Accumulator {
        private final boolean last;
        private long time;
        Object value;

        Edge(boolean last) {
            this.last = last;
        }

        @Override
        void add(Object candidate, long at) {
            if (value == null || (last ? at >= time : at < time)) {
                value = candidate;
                time = at;
            }
        }

        @Override
        void merge(Accumulator other) {
            Edge that = (Edge) other;
            if (that.value != null) {
                add(that.value, that.time);
            }
        }

        @Override
        void write(DataOutputView out) throws IOException {
            out.writeLong(time);
            Values.write(value, out);
        }

        @Override
        void read(DataInputView in) throws IOException {
            time = in.readLong();
            value = Values.read(in);
        }
    }

    /** The distinct values themselves. */
    static final class Distinct extends Accumulator {
        final Set<Object> values = new HashSet<>();

        @Override
        void add(Object value, long time) {
            values.add(Values.hashable(value));
        }

        @Override
        void merge(Accumulator other) {
            values.addAll(((Distinct) other).values);
        }

        @Override
        void write(DataOutputView out) throws IOException {
            out.writeInt(values.size());
            for (Object each : values) {
                Values.write(each, out);
            }
        }

        @Override
        void read(DataInputView in) throws IOException {
            values.clear();
            for (int left = in.readInt(); left > 0; left--) {
                values.add(Values.read(in));
            }
        }
    }
}
