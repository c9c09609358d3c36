package headwater.flink;

import org.apache.flink.api.common.serialization.SerializationSchema;
import org.apache.flink.table.api.TableRuntimeException;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.types.logical.RowType;

/** Rows to records. As a key, a row of NULLs is no key: null bytes. */
final class RecordWriter implements SerializationSchema<RowData> {
    private static final long serialVersionUID = 1L;

    private final WireFormat format;
    private final RowType columns;
    private final boolean key;
    private transient Composites.Record record;
    private transient WireOutput out;

    private RecordWriter(WireFormat format, RowType columns, boolean key) {
        this.format = format;
        this.columns = columns;
        this.key = key;
    }

    /**
     * @throws org.apache.flink.table.api.ValidationException naming a column that does not fit the schema
     */
    static RecordWriter of(WireFormat format, RowType columns, boolean key) {
        RecordWriter writer = new RecordWriter(format, columns, key);
        writer.prepare();
        return writer;
    }

    @Override
    public void open(InitializationContext context) {
        prepare();
    }

    private void prepare() {
        record = Mapping.forWriting(format.table(), format.schema(), columns);
        out = new WireOutput();
    }

    @Override
    public byte[] serialize(RowData row) {
        if (key && isNull(row)) {
            return null;
        }
        out.reset();
        out.writeHeader(format.schemaId());
        try {
            record.write(row, out);
        } catch (BadRecord bad) {
            throw new TableRuntimeException("A row for table " + format.table() + " is no "
                    + format.schema().getFullName() + ": " + bad.getMessage());
        }
        return out.copy();
    }

    private static boolean isNull(RowData row) {
        for (int i = 0; i < row.getArity(); i++) {
            if (!row.isNullAt(i)) {
                return false;
            }
        }
        return true;
    }
}
