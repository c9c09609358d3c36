package headwater.flink.tiles;

import headwater.flink.TableCall;
import java.util.LinkedHashMap;
import org.apache.flink.table.api.dataview.MapView;
import org.apache.flink.table.catalog.DataTypeFactory;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.functions.FunctionContext;
import org.apache.flink.table.functions.ProcessTableFunction;
import org.apache.flink.table.functions.SpecializedFunction;
import org.apache.flink.table.functions.UserDefinedFunction;
import org.apache.flink.table.types.inference.StateTypeStrategy;
import org.apache.flink.table.types.inference.TypeInference;
import org.apache.flink.table.types.logical.RowType;

/**
 * {@code HEADWATER_TILES(input => TABLE t PARTITION BY (keys), features => '...', on_time => DESCRIPTOR(rowtime))}:
 * sliding aggregates over any number of windows, one row of them at every tile with a record and at every slide.
 *
 * <p>A record is added to the tile of its time; that is all it costs. When a tile closes it is added to its parents, see
 * {@link Levels}. Windows of a key end together, so each starts from what the next shorter one found.
 *
 * <p>Row times are one millisecond before event times: the tile [start, end) of row times is (start, end] of event times,
 * and the timer at its last millisecond fires when the watermark has passed it.
 */
public final class TileFeatures extends ProcessTableFunction<RowData> implements SpecializedFunction {
    private static final long serialVersionUID = 1;

    private final String features;
    private final RowType columns;
    private transient Plan plan;
    private transient Levels levels;

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
        state.put("tiles", TileCall.TILES);
        state.put("newest", TileCall.NEWEST);
        return TileCall.inference(columns, state, false);
    }

    /** The function of one call: a timer gets no arguments, so it has to know them before. */
    @Override
    public UserDefinedFunction specialize(SpecializedContext context) {
        return new TileFeatures(TileCall.textOf(context.getCallContext()), TableCall.columnsOf(context.getCallContext()));
    }

    @Override
    public void open(FunctionContext context) {
        plan = new Plan(features, columns, false);
        levels = new Levels(plan);
    }

    public void eval(
            Context context, MapView<Long, Tile> tiles, MapView<Integer, Long> newest, RowData input, String text)
            throws Exception {
        TimeContext<Long> time = context.timeContext(Long.class);
        long now = time.time();
        long number = Math.floorDiv(now, plan.hopMs);
        Tile tile = tiles.get(Levels.base(number));
        if (tile == null) {
            tile = plan.tile();
            time.registerOnTime((number + 1) * plan.hopMs - 1);
        }
        plan.add(tile, input, now);
        tiles.put(Levels.base(number), tile);
    }

    /** A row: the windows that end now. Timers are set for the closes of active tiles and for slides, nothing else. */
    public void onTimer(OnTimerContext context, MapView<Long, Tile> tiles, MapView<Integer, Long> newest)
            throws Exception {
        TimeContext<Long> time = context.timeContext(Long.class);
        long end = (time.time() + 1) / plan.hopMs;
        Tile closed = tiles.get(Levels.base(end - 1));
        if (closed != null) {
            levels.addToParents(tiles, end - 1, closed);
        }
        GenericRowData row = new GenericRowData(plan.size);
        if (levels.sample(row, tiles, newest, end, closed != null, time)) {
            collect(row);
        }
    }
}
