package headwater.flink;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.connector.ChangelogMode;
import org.apache.flink.table.connector.format.DecodingFormat;
import org.apache.flink.table.connector.source.DynamicTableSource;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.types.DataType;
import org.apache.flink.table.types.logical.RowType;
import org.apache.flink.table.types.utils.DataTypeUtils;
import org.apache.flink.types.RowKind;

/** The reading half of the format, and what it tells the planner. */
final class ReadingFormat implements DecodingFormat<DeserializationSchema<RowData>> {
    /** Why the record could not be read; NULL for a good one. */
    static final String ERROR = "error";
    /** The record that could not be read; NULL for a good one. */
    static final String BYTES = "bytes";
    /** The record as it came, good or not; NULL for a heartbeat. */
    static final String RAW = "raw";

    private final WireFormat format;
    private final boolean versioned;
    private List<String> metadataKeys = List.of();

    ReadingFormat(WireFormat format, boolean versioned) {
        this.format = format;
        this.versioned = versioned;
    }

    @Override
    public Map<String, DataType> listReadableMetadata() {
        Map<String, DataType> metadata = new LinkedHashMap<>();
        metadata.put(ERROR, DataTypes.STRING().nullable());
        metadata.put(BYTES, DataTypes.BYTES().nullable());
        metadata.put(RAW, DataTypes.BYTES().nullable());
        return metadata;
    }

    @Override
    public void applyReadableMetadata(List<String> keys) {
        metadataKeys = List.copyOf(keys);
    }

    @Override
    public DeserializationSchema<RowData> createRuntimeDecoder(
            DynamicTableSource.Context context, DataType physicalDataType) {
        List<DataTypes.Field> metadata = metadataKeys.stream()
                .map(key -> DataTypes.FIELD(key, listReadableMetadata().get(key)))
                .toList();
        DataType produced = DataTypeUtils.appendRowFields(physicalDataType, metadata);
        RowType columns = (RowType) physicalDataType.getLogicalType();
        return RecordReader.of(format, columns, versioned, metadataKeys, context.createTypeInformation(produced));
    }

    /**
     * Of a versioned table the updates are announced whole, with their UPDATE_BEFORE: then the planner neither asks for
     * the missing half nor normalises, and a temporal join, which needs no more than the new version, gets just that.
     */
    @Override
    public ChangelogMode getChangelogMode() {
        if (!versioned) {
            return ChangelogMode.insertOnly();
        }
        return ChangelogMode.newBuilder()
                .addContainedKind(RowKind.INSERT)
                .addContainedKind(RowKind.UPDATE_BEFORE)
                .addContainedKind(RowKind.UPDATE_AFTER)
                .build();
    }
}
