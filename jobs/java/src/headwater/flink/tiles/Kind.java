package headwater.flink.tiles;

import java.util.function.Supplier;

/** Kinds of accumulators. Their order is written into state: new ones go to the end. */
enum Kind {
    COUNT(Accumulator.Count::new),
    LONG_SUM(Accumulator.LongSum::new),
    DOUBLE_SUM(Accumulator.DoubleSum::new),
    DECIMAL_SUM(Accumulator.DecimalSum::new),
    MOMENTS(Accumulator.Moments::new),
    MIN(() -> new Accumulator.Extreme(false)),
    MAX(() -> new Accumulator.Extreme(true)),
    FIRST(() -> new Accumulator.Edge(false)),
    LAST(() -> new Accumulator.Edge(true)),
    DISTINCT(Accumulator.Distinct::new),
    APPROXIMATE_DISTINCT(ApproximateDistinct::new),
    QUANTILES(Quantiles::new),
    // Of changes: what can take a value back.
    EXACT_SUM(ExactSum::new),
    BAG(Bag::new),
    VERSIONS(Versions::new);

    private static final Kind[] ALL = values();
    private final Supplier<Accumulator> fresh;

    Kind(Supplier<Accumulator> fresh) {
        this.fresh = fresh;
    }

    Accumulator fresh() {
        return fresh.get();
    }

    static Kind of(int number) {
        return ALL[number];
    }
}
