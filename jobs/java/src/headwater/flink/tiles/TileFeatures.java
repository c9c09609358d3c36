package headwater.flink.tiles;

import java.time.Duration;
import java.util.EnumSet;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.api.dataview.MapView;
import org.apache.flink.table.catalog.DataTypeFactory;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.functions.FunctionContext;
import org.apache.flink.table.functions.ProcessTableFunction;
import org.apache.flink.table.functions.SpecializedFunction;
import org.apache.flink.table.functions.UserDefinedFunction;
import org.apache.flink.table.types.DataType;
import org.apache.flink.table.types.inference.CallContext;
import org.apache.flink.table.types.inference.StateTypeStrategy;
import org.apache.flink.table.types.inference.StaticArgument;
import org.apache.flink.table.types.inference.StaticArgumentTrait;
import org.apache.flink.table.types.inference.TypeInference;
import org.apache.flink.table.types.inference.TypeStrategies;
import org.apache.flink.table.types.logical.RowType;
import org.apache.flink.table.types.utils.TypeConversions;

/**
 * {@code HEADWATER_TILES(input => TABLE t PARTITION BY (keys), features => '...', on_time => DESCRIPTOR(rowtime))}:
 * sliding aggregates over any number of windows, one row of them at every tile with a record and at every slide.
 *
 * <p>A record is added to the tile of its time; that is all it costs. When a tile closes it is added to its parents,
 * each {@value #FANOUT} times as long as its children, so that a window of n tiles is put together from some
 * {@value #FANOUT} log n of them and nothing is ever subtracted. Windows of a key end together, so each starts from
 * what the next shorter one found.
 *
 * <p>Row times are one millisecond before event times: the tile [start, end) of row times is (start, end] of event times,
 * and the timer at its last millisecond fires when the watermark has passed it.
 */
public final class TileFeatures extends ProcessTableFunction<RowData> implements SpecializedFunction {
    private static final long serialVersionUID = 1;
    private static final int FANOUT = 8;
    /** Up to so many steps it is cheaper to ask for every tile that may have expired than to look at all there are. */
    private static final long STEPS_MAX = 64;
    /** A tile's key is its number times this plus its level. */
    private static final int LEVELS = 64;
    private static final int ONLY = 0;

    private final String features;
    private final RowType columns;
    private transient Plan plan;
    /** Base tiles in a tile of each level. */
    private transient long[] spans;

    public TileFeatures() {
        this(null, null);
    }

    private TileFeatures(String features, RowType columns) {
        this.features = features;
        this.columns = columns;
    }

    @Override
    public TypeInference getTypeInference(DataTypeFactory types) {
        LinkedHashMap<String, StateTypeStrategy> state = new LinkedHashMap<>();
        state.put("tiles", map(
                DataTypes.BIGINT().notNull().bridgedTo(Long.class), DataTypes.RAW(Tile.class, new TileSerializer())));
        // Under ONLY: the number of the base tile before which the windows of the newest row end.
        state.put("newest", map(
                DataTypes.INT().notNull().bridgedTo(Integer.class), DataTypes.BIGINT().bridgedTo(Long.class)));
        EnumSet<StaticArgumentTrait> traits = EnumSet.of(
                StaticArgumentTrait.TABLE, StaticArgumentTrait.SET_SEMANTIC_TABLE, StaticArgumentTrait.REQUIRE_ON_TIME);
        // Only a table of known columns is handed over as it is; of an unknown one every record would become a Row first.
        StaticArgument input = columns == null
                ? StaticArgument.table("input", RowData.class, false, traits)
                : StaticArgument.table(
                        "input",
                        TypeConversions.fromLogicalToDataType(columns).bridgedTo(RowData.class),
                        false,
                        traits);
        return TypeInference.newBuilder()
                .staticArguments(
                        input,
                        StaticArgument.scalar("features", DataTypes.STRING().notNull(), false))
                .stateTypeStrategies(state)
                .outputTypeStrategy(call -> Optional.of(new Plan(textOf(call), columnsOf(call)).output))
                .build();
    }

    /** The function of one call: a timer gets no arguments, so it has to know them before. */
    @Override
    public UserDefinedFunction specialize(SpecializedContext context) {
        return new TileFeatures(textOf(context.getCallContext()), columnsOf(context.getCallContext()));
    }

    @Override
    public void open(FunctionContext context) {
        plan = new Plan(features, columns);
        int levels = 1;
        for (long span = FANOUT; span <= plan.longest(); span *= FANOUT) {
            levels++;
        }
        spans = new long[levels];
        spans[0] = 1;
        for (int level = 1; level < levels; level++) {
            spans[level] = spans[level - 1] * FANOUT;
        }
    }

    public void eval(
            Context context, MapView<Long, Tile> tiles, MapView<Integer, Long> newest, RowData input, String text)
            throws Exception {
        TimeContext<Long> time = context.timeContext(Long.class);
        long now = time.time();
        long number = Math.floorDiv(now, plan.hopMs);
        Tile tile = tiles.get(key(0, number));
        if (tile == null) {
            tile = plan.tile();
            time.registerOnTime((number + 1) * plan.hopMs - 1);
        }
        plan.add(tile, input, now);
        tiles.put(key(0, number), tile);
    }

    /** A row: the windows that end now. Timers are set for the closes of active tiles and for slides, nothing else. */
    public void onTimer(OnTimerContext context, MapView<Long, Tile> tiles, MapView<Integer, Long> newest)
            throws Exception {
        TimeContext<Long> time = context.timeContext(Long.class);
        long endMs = time.time() + 1;
        long end = endMs / plan.hopMs;
        boolean due = addToParents(tiles, end - 1);
        GenericRowData row = new GenericRowData(plan.size);
        Tile found = plan.tile();
        long start = end;
        for (Plan.Window window : plan.windows) {
            gather(tiles, end - window.tiles, start, found, window.slots);
            start = end - window.tiles;
            window.fill(row, found);
            for (long slideMs : window.slidesMs) {
                due = due || (endMs % slideMs == 0 && (found.records > 0 || heldBefore(tiles, newest, window.tiles)));
                if (found.records > 0) {
                    time.registerOnTime((Math.floorDiv(endMs, slideMs) + 1) * slideMs - 1);
                }
            }
        }
        if (due) {
            sweep(tiles, newest, end);
            collect(row);
        }
    }

    /** Whether a window held records at the row before: one that was found empty there needs no row that says so. */
    private boolean heldBefore(MapView<Long, Tile> tiles, MapView<Integer, Long> newest, long length) throws Exception {
        Long end = newest.get(ONLY);
        if (end == null) {
            return false;
        }
        Tile found = plan.tile();
        gather(tiles, end - length, end, found, new int[0]);
        return found.records > 0;
    }

    /** Whether there is a base tile of that number; then it is part of its parents from now on. */
    private boolean addToParents(MapView<Long, Tile> tiles, long number) throws Exception {
        Tile closed = tiles.get(key(0, number));
        if (closed == null) {
            return false;
        }
        for (int level = 1; level < spans.length; level++) {
            long parentKey = key(level, Math.floorDiv(number, spans[level]));
            Tile parent = tiles.get(parentKey);
            if (parent == null) {
                parent = plan.tile();
            }
            parent.merge(closed);
            tiles.put(parentKey, parent);
        }
        return true;
    }

    /** Merge the base tiles from start to before end, all of them closed: the largest that fit, from the right. */
    private void gather(MapView<Long, Tile> tiles, long start, long end, Tile into, int[] slots) throws Exception {
        for (long at = end; at > start; ) {
            int level = spans.length - 1;
            while (Math.floorMod(at, spans[level]) != 0 || at - spans[level] < start) {
                level--;
            }
            at -= spans[level];
            Tile tile = tiles.get(key(level, Math.floorDiv(at, spans[level])));
            if (tile != null) {
                into.merge(tile, slots);
            }
        }
    }

    /** Remove the tiles that no window reaches which ends after base tile number `end` begins. */
    private void sweep(MapView<Long, Tile> tiles, MapView<Integer, Long> newest, long end) throws Exception {
        Long last = newest.get(ONLY);
        // The windows of the next row begin at this tile or later. The windows of the last row are asked for once more.
        long oldest = end - plan.longest();
        // The first tile to close is the oldest there is.
        long before = last == null ? Math.min(end - 1, oldest) : last - plan.longest();
        if (oldest - before > STEPS_MAX) {
            for (Iterator<Map.Entry<Long, Tile>> each = tiles.iterator(); each.hasNext(); ) {
                long key = each.next().getKey();
                long span = spans[(int) Math.floorMod(key, (long) LEVELS)];
                if ((Math.floorDiv(key, (long) LEVELS) + 1) * span <= oldest) {
                    each.remove();
                }
            }
        } else {
            for (int level = 0; level < spans.length; level++) {
                long until = Math.floorDiv(oldest, spans[level]);
                for (long number = Math.floorDiv(before, spans[level]); number < until; number++) {
                    tiles.remove(key(level, number));
                }
            }
        }
        if (tiles.isEmpty()) {
            newest.clear();
        } else {
            newest.put(ONLY, end);
        }
    }

    private static long key(int level, long number) {
        return number * LEVELS + level;
    }

    /**
     * State without a time to live. Where a function declares none, Flink 2.3 gives its state one of Long.MAX_VALUE, and
     * looks for what has expired, copying whole maps, at every access: 90 % of this function's time.
     */
    private static StateTypeStrategy map(DataType key, DataType value) {
        return StateTypeStrategy.of(TypeStrategies.explicit(MapView.newMapViewDataType(key, value)), Duration.ZERO);
    }

    private static String textOf(CallContext call) {
        return call.getArgumentValue(1, String.class).orElseThrow();
    }

    private static RowType columnsOf(CallContext call) {
        return (RowType) call.getArgumentDataTypes().get(0).getLogicalType();
    }
}
