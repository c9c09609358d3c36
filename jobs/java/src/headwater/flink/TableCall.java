package headwater.flink;

import java.time.Duration;
import java.util.EnumSet;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.api.dataview.MapView;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.types.DataType;
import org.apache.flink.table.types.inference.CallContext;
import org.apache.flink.table.types.inference.StateTypeStrategy;
import org.apache.flink.table.types.inference.StaticArgument;
import org.apache.flink.table.types.inference.StaticArgumentTrait;
import org.apache.flink.table.types.inference.TypeStrategies;
import org.apache.flink.table.types.logical.RowType;
import org.apache.flink.table.types.utils.TypeConversions;

/** What the signatures of our table functions have in common. */
public final class TableCall {
    private static final EnumSet<StaticArgumentTrait> TRAITS = EnumSet.of(
            StaticArgumentTrait.TABLE, StaticArgumentTrait.SET_SEMANTIC_TABLE, StaticArgumentTrait.REQUIRE_ON_TIME);

    private TableCall() {}

    /**
     * The table that a function reads, its first argument.
     *
     * <p>Only a table of known columns is handed over as it is; of an unknown one every record would become a Row first.
     *
     * @param columns null as long as they are not known
     */
    public static StaticArgument input(RowType columns) {
        return columns == null
                ? StaticArgument.table("input", RowData.class, false, TRAITS)
                : StaticArgument.table(
                        "input",
                        TypeConversions.fromLogicalToDataType(columns).bridgedTo(RowData.class),
                        false,
                        TRAITS);
    }

    /** The columns of that table. */
    public static RowType columnsOf(CallContext call) {
        return (RowType) call.getArgumentDataTypes().get(0).getLogicalType();
    }

    /**
     * State without a time to live. Where a function declares none, Flink 2.3 gives its state one of Long.MAX_VALUE, and
     * looks for what has expired, copying whole maps, at every access: 90 % of the time of tiles.
     */
    public static StateTypeStrategy map(DataType key, DataType value) {
        return StateTypeStrategy.of(TypeStrategies.explicit(MapView.newMapViewDataType(key, value)), Duration.ZERO);
    }

    /** State under numbers. */
    public static StateTypeStrategy longs(DataType value) {
        return map(DataTypes.BIGINT().notNull().bridgedTo(Long.class), value);
    }

    /** State of which there is one, under 0. */
    public static StateTypeStrategy single(DataType value) {
        return map(DataTypes.INT().notNull().bridgedTo(Integer.class), value);
    }
}
