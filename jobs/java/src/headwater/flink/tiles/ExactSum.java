package headwater.flink.tiles;

import java.io.IOException;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.math.MathContext;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;

/**
 * Count, sum and sum of squares of numbers, exact: what was added and taken back again leaves no trace, whatever was
 * added in between. Every floating-point number is a whole number times a power of two, and so are their sums.
 */
final class ExactSum extends Accumulator {
    private static final MathContext QUOTIENT = MathContext.DECIMAL128;
    private static final int MANTISSA_BITS = 52;
    private static final int EXPONENT_MIN = -1074;

    private long count;
    private long infinities;
    private long negativeInfinities;
    /** The sums are these times 2 to the exponent, or for the squares to twice the exponent. */
    private BigInteger sum = BigInteger.ZERO;
    private BigInteger squares = BigInteger.ZERO;
    private int exponent;

    @Override
    void add(Object value, long time) {
        change(1, value, null);
    }

    @Override
    void change(int sign, Object value, Position at) {
        count += sign;
        if (value instanceof Long) {
            plus(BigInteger.valueOf((Long) value), 0, sign);
            return;
        }
        double number = Values.asDouble(value);
        if (Double.isInfinite(number)) {
            infinities += number > 0 ? sign : 0;
            negativeInfinities += number < 0 ? sign : 0;
        } else if (number != 0) {
            long bits = Double.doubleToLongBits(number);
            int raw = (int) (bits >> MANTISSA_BITS & 0x7ff);
            long mantissa = bits & (1L << MANTISSA_BITS) - 1 | (raw == 0 ? 0 : 1L << MANTISSA_BITS);
            int zeros = Long.numberOfTrailingZeros(mantissa);
            long whole = mantissa >> zeros;
            plus(BigInteger.valueOf(number < 0 ? -whole : whole), EXPONENT_MIN + Math.max(raw - 1, 0) + zeros, sign);
        }
    }

    @Override
    void merge(Accumulator other) {
        ExactSum that = (ExactSum) other;
        count += that.count;
        infinities += that.infinities;
        negativeInfinities += that.negativeInfinities;
        plus(that.sum, that.squares, that.exponent);
    }

    private void plus(BigInteger whole, int to, int sign) {
        BigInteger square = whole.multiply(whole);
        plus(sign > 0 ? whole : whole.negate(), sign > 0 ? square : square.negate(), to);
    }

    private void plus(BigInteger moreSum, BigInteger moreSquares, int to) {
        if (sum.signum() == 0 && squares.signum() == 0) {
            exponent = to;
        }
        int shift = to - exponent;
        if (shift < 0) {
            sum = sum.shiftLeft(-shift);
            squares = squares.shiftLeft(-2 * shift);
            exponent = to;
            shift = 0;
        }
        sum = sum.add(moreSum.shiftLeft(shift));
        squares = squares.add(moreSquares.shiftLeft(2 * shift));
    }

    /** As IEEE 754 has it: with an infinity that infinity, with both of them not a number. */
    double total() {
        if (infinities != 0 || negativeInfinities != 0) {
            return (infinities != 0 ? Double.POSITIVE_INFINITY : 0) + (negativeInfinities != 0 ? Double.NEGATIVE_INFINITY : 0);
        }
        return scaled(sum, exponent).doubleValue();
    }

    Double mean() {
        if (count == 0) {
            return null;
        }
        if (infinities != 0 || negativeInfinities != 0) {
            return total();
        }
        return scaled(sum, exponent).divide(BigDecimal.valueOf(count), QUOTIENT).doubleValue();
    }

    /** Sample variance; null of fewer than two values, and of infinite ones. */
    Double variance() {
        if (count < 2 || infinities != 0 || negativeInfinities != 0) {
            return null;
        }
        BigInteger above = squares.multiply(BigInteger.valueOf(count)).subtract(sum.multiply(sum));
        BigDecimal below = BigDecimal.valueOf(count).multiply(BigDecimal.valueOf(count - 1));
        return scaled(above, 2 * exponent).divide(below, QUOTIENT).doubleValue();
    }

    private static BigDecimal scaled(BigInteger whole, int exponent) {
        if (exponent >= 0) {
            return new BigDecimal(whole.shiftLeft(exponent));
        }
        // Divided by 2^n: times 5^n, n places further right.
        return new BigDecimal(whole.multiply(BigInteger.valueOf(5).pow(-exponent)), -exponent);
    }

    @Override
    void write(DataOutputView out) throws IOException {
        out.writeLong(count);
        out.writeLong(infinities);
        out.writeLong(negativeInfinities);
        out.writeInt(exponent);
        write(sum, out);
        write(squares, out);
    }

    @Override
    void read(DataInputView in) throws IOException {
        count = in.readLong();
        infinities = in.readLong();
        negativeInfinities = in.readLong();
        exponent = in.readInt();
        sum = readWhole(in);
        squares = readWhole(in);
    }

    private static void write(BigInteger number, DataOutputView out) throws IOException {
        byte[] bytes = number.toByteArray();
        out.writeInt(bytes.length);
        out.write(bytes);
    }

    private static BigInteger readWhole(DataInputView in) throws IOException {
        byte[] bytes = new byte[in.readInt()];
        in.readFully(bytes);
        return new BigInteger(bytes);
    }
}
