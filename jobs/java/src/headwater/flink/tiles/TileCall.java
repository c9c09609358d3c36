package headwater.flink.tiles;

import headwater.flink.TableCall;
import java.util.LinkedHashMap;
import java.util.Optional;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.types.inference.CallContext;
import org.apache.flink.table.types.inference.StateTypeStrategy;
import org.apache.flink.table.types.inference.StaticArgument;
import org.apache.flink.table.types.inference.TypeInference;
import org.apache.flink.table.types.logical.RowType;

/** The signature of the functions that make tiles: a table, and what of it is asked for. */
final class TileCall {
    /** Tiles by {@link Levels}' keys. */
    static final StateTypeStrategy TILES = TableCall.longs(DataTypes.RAW(Tile.class, new TileSerializer()));
    /** The number of the base tile before which the windows of the newest row end. */
    static final StateTypeStrategy NEWEST = TableCall.single(DataTypes.BIGINT().bridgedTo(Long.class));

    private TileCall() {}

    static TypeInference inference(
            RowType columns, LinkedHashMap<String, StateTypeStrategy> state, boolean ofChanges) {
        return TypeInference.newBuilder()
                .staticArguments(
                        TableCall.input(columns),
                        StaticArgument.scalar("features", DataTypes.STRING().notNull(), false))
                .stateTypeStrategies(state)
                .outputTypeStrategy(
                        call -> Optional.of(new Plan(textOf(call), TableCall.columnsOf(call), ofChanges).output))
                .build();
    }

    static String textOf(CallContext call) {
        return call.getArgumentValue(1, String.class).orElseThrow();
    }
}
