package headwater.flink.tiles;

import java.math.RoundingMode;
import java.util.function.Function;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.api.ValidationException;
import org.apache.flink.table.data.DecimalData;
import org.apache.flink.table.types.DataType;
import org.apache.flink.table.types.logical.LogicalType;
import org.apache.flink.table.types.logical.LogicalTypeFamily;
import org.apache.flink.table.types.logical.LogicalTypeRoot;
import org.apache.flink.table.types.logical.utils.LogicalTypeChecks;
import org.apache.flink.table.types.utils.TypeConversions;

/** A function on a column: what it keeps, what it gives, and of which type. Of no value, 0 or null. */
final class Aggregate {
    private static final int DECIMAL_DIGITS = 38;

    final Kind kind;
    final DataType output;
    private final Function<Accumulator, Object> result;

    private Aggregate(Kind kind, DataType output, Function<Accumulator, Object> result) {
        this.kind = kind;
        this.output = output;
        this.result = result;
    }

    Object result(Accumulator found) {
        return result.apply(found);
    }

    /**
     * @param name of the feature, for messages
     * @param type of the column; null for a count of records
     */
    static Aggregate of(String name, String function, LogicalType type) {
        switch (function) {
            case "count":
                return new Aggregate(Kind.COUNT, DataTypes.BIGINT(), each -> ((Accumulator.Count) each).count);
            case "sum":
                return sum(name, function, type);
            case "mean":
                return mean(name, function, type);
            case "var":
                number(name, function, type);
                return new Aggregate(
                        Kind.MOMENTS, DataTypes.DOUBLE(), each -> ((Accumulator.Moments) each).variance());
            case "stddev":
                number(name, function, type);
                return new Aggregate(Kind.MOMENTS, DataTypes.DOUBLE(), each -> {
                    Double variance = ((Accumulator.Moments) each).variance();
                    return variance == null ? null : Math.sqrt(variance);
                });
            case "min":
            case "max":
                Kind extreme = "min".equals(function) ? Kind.MIN : Kind.MAX;
                return new Aggregate(extreme, kept(name, function, type), each -> ((Accumulator.Extreme) each).value);
            case "first":
            case "last":
                Kind edge = "first".equals(function) ? Kind.FIRST : Kind.LAST;
                return new Aggregate(edge, kept(name, function, type), each -> ((Accumulator.Edge) each).value);
            case "count_distinct":
                kept(name, function, type);
                return new Aggregate(
                        Kind.DISTINCT, DataTypes.BIGINT(), each -> (long) ((Accumulator.Distinct) each).values.size());
            case "approx_count_distinct":
                kept(name, function, type);
                return new Aggregate(
                        Kind.APPROXIMATE_DISTINCT,
                        DataTypes.BIGINT(),
                        each -> ((ApproximateDistinct) each).estimate());
            default:
                number(name, function, type);
                double q = Double.parseDouble(function.substring(1)) / 100;
                return new Aggregate(Kind.QUANTILES, DataTypes.DOUBLE(), each -> ((Quantiles) each).at(q));
        }
    }

    /** The same over changes of rows: what is kept can take values back. */
    Aggregate ofChanges(String name, String function) {
        switch (function) {
            case "min":
                return new Aggregate(Kind.BAG, output, each -> ((Bag) each).smallest());
            case "max":
                return new Aggregate(Kind.BAG, output, each -> ((Bag) each).largest());
            case "count_distinct":
                return new Aggregate(Kind.BAG, output, each -> ((Bag) each).size());
            case "first":
                return new Aggregate(Kind.VERSIONS, output, each -> ((Versions) each).first());
            case "last":
                return new Aggregate(Kind.VERSIONS, output, each -> ((Versions) each).last());
            case "var":
                return new Aggregate(Kind.EXACT_SUM, output, each -> ((ExactSum) each).variance());
            case "stddev":
                return new Aggregate(Kind.EXACT_SUM, output, each -> {
                    Double variance = ((ExactSum) each).variance();
                    return variance == null ? null : Math.sqrt(variance);
                });
            case "approx_count_distinct":
                throw new ValidationException(String.format(
                        "Feature %s: expected count_distinct over changes of rows, as approx_count_distinct cannot take "
                                + "a value back, found: %s", name, function));
            default:
                if (kind != Kind.DOUBLE_SUM) {
                    return this;
                }
                return new Aggregate(Kind.EXACT_SUM, output,
                        "sum".equals(function) ? each -> ((ExactSum) each).total() : each -> ((ExactSum) each).mean());
        }
    }

    private static Aggregate sum(String name, String function, LogicalType type) {
        switch (number(name, function, type)) {
            case LONG_SUM:
                return new Aggregate(Kind.LONG_SUM, DataTypes.BIGINT(), each -> ((Accumulator.LongSum) each).sum);
            case DOUBLE_SUM:
                return new Aggregate(Kind.DOUBLE_SUM, DataTypes.DOUBLE(), each -> ((Accumulator.DoubleSum) each).total());
            default:
                int scale = LogicalTypeChecks.getScale(type);
                return new Aggregate(
                        Kind.DECIMAL_SUM,
                        DataTypes.DECIMAL(DECIMAL_DIGITS, scale),
                        each -> DecimalData.fromBigDecimal(
                                ((Accumulator.DecimalSum) each).sum.setScale(scale, RoundingMode.UNNECESSARY),
                                DECIMAL_DIGITS,
                                scale));
        }
    }

    private static Aggregate mean(String name, String function, LogicalType type) {
        Kind kind = number(name, function, type);
        return new Aggregate(kind, DataTypes.DOUBLE(), found -> {
            if (kind == Kind.LONG_SUM) {
                Accumulator.LongSum sum = (Accumulator.LongSum) found;
                return sum.count == 0 ? null : (double) sum.sum / sum.count;
            }
            if (kind == Kind.DOUBLE_SUM) {
                Accumulator.DoubleSum sum = (Accumulator.DoubleSum) found;
                return sum.count == 0 ? null : sum.total() / sum.count;
            }
            Accumulator.DecimalSum sum = (Accumulator.DecimalSum) found;
            return sum.count == 0 ? null : sum.sum.doubleValue() / sum.count;
        });
    }

    /** The kind of sum that fits a column of numbers. */
    private static Kind number(String name, String function, LogicalType type) {
        if (type.is(LogicalTypeFamily.INTEGER_NUMERIC)) {
            return Kind.LONG_SUM;
        }
        if (type.is(LogicalTypeFamily.APPROXIMATE_NUMERIC)) {
            return Kind.DOUBLE_SUM;
        }
        if (type.is(LogicalTypeRoot.DECIMAL)) {
            return Kind.DECIMAL_SUM;
        }
        throw refused(name, function, type, "a column of numbers");
    }

    /** The type of a value as a tile keeps it. */
    private static DataType kept(String name, String function, LogicalType type) {
        if (type.is(LogicalTypeFamily.INTEGER_NUMERIC)) {
            return DataTypes.BIGINT();
        }
        if (type.is(LogicalTypeFamily.APPROXIMATE_NUMERIC)) {
            return DataTypes.DOUBLE();
        }
        boolean plain = type.is(LogicalTypeFamily.CHARACTER_STRING)
                || type.is(LogicalTypeFamily.BINARY_STRING)
                || type.is(LogicalTypeRoot.DECIMAL)
                || type.is(LogicalTypeRoot.BOOLEAN)
                || type.is(LogicalTypeFamily.TIMESTAMP);
        if (plain) {
            return TypeConversions.fromLogicalToDataType(type.copy(true));
        }
        throw refused(name, function, type, "a column of numbers, text, bytes, booleans or timestamps");
    }

    private static ValidationException refused(String name, String function, LogicalType type, String expected) {
        return new ValidationException(String.format(
                "Feature %s: expected %s for %s, found: %s", name, expected, function, type.asSummaryString()));
    }
}
