package headwater.flink;

import org.apache.flink.api.common.serialization.SerializationSchema;
import org.apache.flink.table.connector.ChangelogMode;
import org.apache.flink.table.connector.format.EncodingFormat;
import org.apache.flink.table.connector.sink.DynamicTableSink;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.types.DataType;
import org.apache.flink.table.types.logical.RowType;

/** The writing half of the format. */
final class WritingFormat implements EncodingFormat<SerializationSchema<RowData>> {
    private final WireFormat format;
    private final boolean key;

    WritingFormat(WireFormat format, boolean key) {
        this.format = format;
        this.key = key;
    }

    @Override
    public SerializationSchema<RowData> createRuntimeEncoder(DynamicTableSink.Context context, DataType consumed) {
        return RecordWriter.of(format, (RowType) consumed.getLogicalType(), key);
    }

    @Override
    public ChangelogMode getChangelogMode() {
        return ChangelogMode.insertOnly();
    }
}
