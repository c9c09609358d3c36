package headwater.flink;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Optional;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.api.ValidationException;
import org.apache.flink.table.api.dataview.MapView;
import org.apache.flink.table.catalog.DataTypeFactory;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.functions.FunctionContext;
import org.apache.flink.table.functions.ProcessTableFunction;
import org.apache.flink.table.functions.SpecializedFunction;
import org.apache.flink.table.functions.UserDefinedFunction;
import org.apache.flink.table.runtime.typeutils.RowDataSerializer;
import org.apache.flink.table.types.DataType;
import org.apache.flink.table.types.inference.StateTypeStrategy;
import org.apache.flink.table.types.inference.TypeInference;
import org.apache.flink.table.types.logical.RowType;
import org.apache.flink.table.types.utils.TypeConversions;

/**
 * {@code HEADWATER_CHANGES(input => TABLE t PARTITION BY hw_key, on_time => DESCRIPTOR(rowtime))}: records that each say
 * what the row of their key is now, to rows with a sign: the one that was, taken back, and the one that is, added.
 *
 * <p>The row that was is the last of this key, and not what a record says was there before: that may be missing
 * (PostgreSQL's replica identity), or of a row that was never read (retention, compaction, a late record), and a record
 * that is sent twice would be counted twice. It costs a row of state for each key.
 *
 * <p>Input columns: {@code hw_key}, the row's, {@code hw_there} (whether there is a row now), {@code hw_time} (its event
 * time), {@code hw_partition}, {@code hw_offset}, {@code rowtime}. Output: the row's, {@code hw_time}, {@code
 * hw_partition} and {@code hw_offset} of the version that the row is, {@code hw_sign}, and {@code hw_since}, when the
 * change takes effect: changes of a row do so in the order of the topic. A record without key has sign 0.
 */
public final class RowChanges extends ProcessTableFunction<RowData> implements SpecializedFunction {
    private static final long serialVersionUID = 1;
    private static final String KEY = "hw_key";
    private static final String THERE = "hw_there";
    private static final String TIME = "hw_time";
    private static final String PARTITION = "hw_partition";
    private static final String OFFSET = "hw_offset";
    private static final String SIGN = "hw_sign";
    private static final String SINCE = "hw_since";
    private static final String ROWTIME = "rowtime";
    private static final int MILLIS = 3;
    private static final int ONLY = 0;

    /** Reads what this function adds to rows. */
    public static final class Reader {
        private final int sign;
        private final int time;
        private final int since;
        private final int partition;
        private final int offset;

        public Reader(RowType columns) {
            sign = index(columns, SIGN);
            time = index(columns, TIME);
            since = index(columns, SINCE);
            partition = index(columns, PARTITION);
            offset = index(columns, OFFSET);
        }

        /** 1 for a row that is there now, -1 for one that was, 0 for no row. */
        public int sign(RowData row) {
            return row.isNullAt(sign) ? 0 : row.getInt(sign);
        }

        /** The row's event time, ms. */
        public long time(RowData row) {
            return row.getTimestamp(time, MILLIS).getMillisecond();
        }

        /** When the change takes effect, ms. */
        public long since(RowData row) {
            return row.getLong(since);
        }

        public int partition(RowData row) {
            return row.getInt(partition);
        }

        public long offset(RowData row) {
            return row.getLong(offset);
        }
    }

    private final RowType columns;
    private transient RowDataSerializer rows;
    private transient List<RowData.FieldGetter> kept;
    private transient int key;
    private transient int there;

    public RowChanges() {
        this(null);
    }

    private RowChanges(RowType columns) {
        this.columns = columns;
    }

    @Override
    public TypeInference getTypeInference(DataTypeFactory types) {
        LinkedHashMap<String, StateTypeStrategy> state = new LinkedHashMap<>();
        // The row of the key, as it came; only of known columns there can be state.
        state.put("last", TableCall.single(columns == null ? DataTypes.BIGINT() : internal(columns)));
        state.put("since", TableCall.single(DataTypes.BIGINT().bridgedTo(Long.class)));
        return TypeInference.newBuilder()
                .staticArguments(TableCall.input(columns))
                .stateTypeStrategies(state)
                .outputTypeStrategy(call -> Optional.of(output(TableCall.columnsOf(call))))
                .build();
    }

    @Override
    public UserDefinedFunction specialize(SpecializedContext context) {
        return new RowChanges(TableCall.columnsOf(context.getCallContext()));
    }

    @Override
    public void open(FunctionContext context) {
        rows = new RowDataSerializer(columns);
        key = index(columns, KEY);
        there = index(columns, THERE);
        kept = new ArrayList<>();
        for (int at : keptOf(columns)) {
            kept.add(RowData.createFieldGetter(columns.getTypeAt(at), at));
        }
    }

    public void eval(Context context, MapView<Integer, RowData> last, MapView<Integer, Long> since, RowData input)
            throws Exception {
        long now = context.timeContext(Long.class).time() + 1;
        if (input.isNullAt(key)) {
            collect(new GenericRowData(kept.size() + 2));
            return;
        }
        RowData before = last.get(ONLY);
        if (before != null) {
            now = Math.max(now, since.get(ONLY));
            collect(signed(before, -1, now));
        }
        if (input.getBoolean(there)) {
            collect(signed(input, 1, now));
            last.put(ONLY, rows.copy(input));
            since.put(ONLY, now);
        } else if (before != null) {
            last.clear();
            since.clear();
        }
    }

    private RowData signed(RowData row, int sign, long since) {
        int size = kept.size();
        GenericRowData found = new GenericRowData(size + 2);
        for (int at = 0; at < size; at++) {
            found.setField(at, kept.get(at).getFieldOrNull(row));
        }
        found.setField(size, sign);
        found.setField(size + 1, since);
        return found;
    }

    private static DataType output(RowType columns) {
        List<DataTypes.Field> fields = new ArrayList<>();
        for (int at : keptOf(columns)) {
            fields.add(DataTypes.FIELD(
                    columns.getFieldNames().get(at),
                    TypeConversions.fromLogicalToDataType(columns.getTypeAt(at).copy(true))));
        }
        fields.add(DataTypes.FIELD(SIGN, DataTypes.INT()));
        fields.add(DataTypes.FIELD(SINCE, DataTypes.BIGINT()));
        return DataTypes.ROW(fields).notNull().bridgedTo(RowData.class);
    }

    /** The columns that go through: the row's and where its version lies. */
    private static List<Integer> keptOf(RowType columns) {
        List<Integer> found = new ArrayList<>();
        for (int at = 0; at < columns.getFieldCount(); at++) {
            String name = columns.getFieldNames().get(at);
            if (!name.equals(KEY) && !name.equals(THERE) && !name.equals(ROWTIME)) {
                found.add(at);
            }
        }
        return found;
    }

    private static DataType internal(RowType columns) {
        return TypeConversions.fromLogicalToDataType(columns).bridgedTo(RowData.class);
    }

    private static int index(RowType columns, String name) {
        int found = columns.getFieldIndex(name);
        if (found < 0) {
            throw new ValidationException(String.format(
                    "Expected a column %s of changes, found: %s", name, columns.getFieldNames()));
        }
        return found;
    }
}
