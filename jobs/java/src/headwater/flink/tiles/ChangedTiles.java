package headwater.flink.tiles;

import headwater.flink.RowChanges;
import headwater.flink.TableCall;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.flink.table.api.DataTypes;
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
 * {@code HEADWATER_CHANGED_TILES(input => TABLE t PARTITION BY (keys), features => '...', on_time =>
 * DESCRIPTOR(rowtime))}: as {@link TileFeatures}, of a table whose rows change. Its input is what {@link RowChanges}
 * gives: rows with a sign.
 *
 * <p>A change has two times. It takes effect at the later of its own time and its row's: until the watermark has passed
 * the tile of that, it is kept apart, so that no sample shows what was not known at its time. Then it corrects the tile of
 * its row's time, however old, as long as a window that is still to come reaches that.
 */
public final class ChangedTiles extends ProcessTableFunction<RowData> implements SpecializedFunction {
    private static final long serialVersionUID = 1;

    private final String features;
    private final RowType columns;
    private transient Plan plan;
    private transient Levels levels;
    private transient RowChanges.Reader change;

    public ChangedTiles() {
        this(null, null);
    }

    private ChangedTiles(String features, RowType columns) {
        this.features = features;
        this.columns = columns;
    }

    @Override
    public TypeInference getTypeInference(DataTypeFactory types) {
        LinkedHashMap<String, StateTypeStrategy> state = new LinkedHashMap<>();
        state.put("tiles", TileCall.TILES);
        state.put("newest", TileCall.NEWEST);
        // By the base tile in which changes take effect.
        state.put("pending", TableCall.longs(DataTypes.RAW(Pending.class, new PendingSerializer())));
        return TileCall.inference(columns, state, true);
    }

    @Override
    public UserDefinedFunction specialize(SpecializedContext context) {
        return new ChangedTiles(
                TileCall.textOf(context.getCallContext()), TableCall.columnsOf(context.getCallContext()));
    }

    @Override
    public void open(FunctionContext context) {
        plan = new Plan(features, columns, true);
        levels = new Levels(plan);
        change = new RowChanges.Reader(columns);
    }

    public void eval(
            Context context,
            MapView<Long, Tile> tiles,
            MapView<Integer, Long> newest,
            MapView<Long, Pending> pending,
            RowData input,
            String text)
            throws Exception {
        TimeContext<Long> time = context.timeContext(Long.class);
        int sign = change.sign(input);
        // What is no change, a heartbeat, moves time on.
        long row = sign == 0 ? time.time() : change.time(input) - 1;
        long since = sign == 0 ? time.time() : change.since(input) - 1;
        long effect = Math.floorDiv(Math.max(row, since), plan.hopMs);
        Pending found = pending.get(effect);
        if (found == null) {
            found = new Pending();
            time.registerOnTime((effect + 1) * plan.hopMs - 1);
        }
        if (sign != 0) {
            Tile part = found.parts.computeIfAbsent(Math.floorDiv(row, plan.hopMs), none -> plan.tile());
            plan.change(part, sign, input, new Position(row, change.partition(input), change.offset(input)));
        }
        pending.put(effect, found);
    }

    /** A row: the windows that end now, after the changes that take effect now. */
    public void onTimer(
            OnTimerContext context,
            MapView<Long, Tile> tiles,
            MapView<Integer, Long> newest,
            MapView<Long, Pending> pending)
            throws Exception {
        TimeContext<Long> time = context.timeContext(Long.class);
        long end = (time.time() + 1) / plan.hopMs;
        Pending now = pending.get(end - 1);
        if (now != null) {
            for (Map.Entry<Long, Tile> each : now.parts.tailMap(end - plan.longest()).entrySet()) {
                levels.addToAll(tiles, each.getKey(), each.getValue());
            }
            pending.remove(end - 1);
        }
        GenericRowData row = new GenericRowData(plan.size);
        if (levels.sample(row, tiles, newest, end, now != null, time)) {
            collect(row);
        }
    }
}
