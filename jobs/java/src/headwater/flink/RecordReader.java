package headwater.flink;

import java.util.HexFormat;
import java.util.List;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.metrics.Counter;
import org.apache.flink.table.api.ValidationException;
import org.apache.flink.table.data.DecimalData;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.data.TimestampData;
import org.apache.flink.table.types.logical.DecimalType;
import org.apache.flink.table.types.logical.LogicalType;
import org.apache.flink.table.types.logical.RowType;
import org.apache.flink.types.RowKind;

/**
 * Records to rows; never an exception.
 *
 * <p>A record that does not decode is a row of NULLs but for its metadata: why, and the record itself. No record at all
 * (a null value: a heartbeat) is a row of NULLs throughout. In a versioned table, whose primary key SQL takes to be
 * never NULL, columns declared NOT NULL hold the zero of their type instead.
 */
final class RecordReader implements DeserializationSchema<RowData> {
    private static final long serialVersionUID = 1L;

    private final WireFormat format;
    private final RowType columns;
    private final RowKind kind;
    private final int errorColumn;
    private final int bytesColumn;
    private final int rawColumn;
    private final int arity;
    private final TypeInformation<RowData> produced;
    private transient Object[] zeros;
    private transient Body body;
    private transient Counter undecodable;
    private transient Counter heartbeats;

    private RecordReader(WireFormat format, RowType columns, boolean versioned, List<String> metadataKeys,
            TypeInformation<RowData> produced) {
        this.format = format;
        this.columns = columns;
        this.kind = versioned ? RowKind.UPDATE_AFTER : RowKind.INSERT;
        int size = columns.getFieldCount();
        this.errorColumn = metadataKeys.contains(ReadingFormat.ERROR) ? size + metadataKeys.indexOf(ReadingFormat.ERROR) : -1;
        this.bytesColumn = metadataKeys.contains(ReadingFormat.BYTES) ? size + metadataKeys.indexOf(ReadingFormat.BYTES) : -1;
        this.rawColumn = metadataKeys.contains(ReadingFormat.RAW) ? size + metadataKeys.indexOf(ReadingFormat.RAW) : -1;
        this.arity = size + metadataKeys.size();
        this.produced = produced;
    }

    /**
     * @param columns the physical columns, by name a part of the schema's fields
     * @param metadataKeys which of {@link ReadingFormat}'s metadata come after them, in that order
     * @throws ValidationException naming a column that does not fit the schema
     */
    static RecordReader of(WireFormat format, RowType columns, boolean versioned, List<String> metadataKeys,
            TypeInformation<RowData> produced) {
        RecordReader reader = new RecordReader(format, columns, versioned, metadataKeys, produced);
        reader.prepare();
        return reader;
    }

    @Override
    public void open(InitializationContext context) {
        prepare();
        undecodable = context.getMetricGroup().counter("undecodable");
        heartbeats = context.getMetricGroup().counter("heartbeats");
    }

    private void prepare() {
        body = format.encoding() == FormatFactory.Encoding.JSON
                ? new JsonBody(format, columns) : new AvroBody(format, columns);
        zeros = null;
        for (int i = 0; i < columns.getFieldCount(); i++) {
            if (!columns.getTypeAt(i).isNullable()) {
                zeros = zeros == null ? new Object[columns.getFieldCount()] : zeros;
                zeros[i] = zero(columns.getFieldNames().get(i), columns.getTypeAt(i));
            }
        }
    }

    @Override
    public RowData deserialize(byte[] message) {
        GenericRowData row = new GenericRowData(kind, arity);
        if (message == null) {
            heartbeats.inc();
        } else {
            try {
                read(message, row);
            } catch (BadRecord bad) {
                undecodable.inc();
                row = new GenericRowData(kind, arity);
                if (errorColumn >= 0) {
                    row.setField(errorColumn, StringData.fromString(bad.getMessage()));
                }
                if (bytesColumn >= 0) {
                    row.setField(bytesColumn, message);
                }
            }
        }
        if (rawColumn >= 0) {
            row.setField(rawColumn, message);
        }
        if (zeros != null) {
            fillZeros(row);
        }
        return row;
    }

    private void read(byte[] message, GenericRowData row) {
        if (format.schemaId() == WireFormat.ANY_ID) {
            readAny(message, row);
            return;
        }
        if (message.length < WireFormat.HEADER_BYTES || message[0] != 0) {
            String start = HexFormat.ofDelimiter(" ").formatHex(message, 0, Math.min(message.length, WireFormat.HEADER_BYTES));
            throw new BadRecord(0, "a zero byte and a schema id of four", message.length == 0 ? "an empty record" : start);
        }
        int id = message[1] << 24 | (message[2] & 0xff) << 16 | (message[3] & 0xff) << 8 | (message[4] & 0xff);
        if (id != format.schemaId()) {
            throw new BadRecord(1, "schema id " + format.schemaId(), Integer.toUnsignedString(id));
        }
        body.read(message, WireFormat.HEADER_BYTES, row);
    }

    /** Behind a header of whatever id, or, where that is no record, from the first byte. */
    private void readAny(byte[] message, GenericRowData row) {
        if (message.length >= WireFormat.HEADER_BYTES && message[0] == 0) {
            try {
                body.read(message, WireFormat.HEADER_BYTES, row);
                return;
            } catch (BadRecord behindHeader) {
                try {
                    body.read(message, 0, row);
                    return;
                } catch (BadRecord bare) {
                    throw behindHeader;
                }
            }
        }
        body.read(message, 0, row);
    }

    private void fillZeros(GenericRowData row) {
        for (int i = 0; i < zeros.length; i++) {
            if (zeros[i] != null && row.isNullAt(i)) {
                row.setField(i, zeros[i]);
            }
        }
    }

    private Object zero(String column, LogicalType type) {
        if (kind == RowKind.UPDATE_AFTER) {
            switch (type.getTypeRoot()) {
                case BOOLEAN:
                    return false;
                case INTEGER:
                case DATE:
                case TIME_WITHOUT_TIME_ZONE:
                    return 0;
                case BIGINT:
                    return 0L;
                case FLOAT:
                    return 0f;
                case DOUBLE:
                    return 0d;
                case VARCHAR:
                    return StringData.fromString("");
                case BINARY:
                case VARBINARY:
                    return new byte[0];
                case DECIMAL:
                    return DecimalData.zero(((DecimalType) type).getPrecision(), ((DecimalType) type).getScale());
                case TIMESTAMP_WITHOUT_TIME_ZONE:
                case TIMESTAMP_WITH_LOCAL_TIME_ZONE:
                    return TimestampData.fromEpochMillis(0);
                default:
            }
        }
        throw new ValidationException(String.format(
                "Table %s, column `%s`: expected a nullable type, as heartbeats and undecodable records are rows of "
                        + "NULLs, found %s. Only the primary key of a table with 'changelog' = 'versioned' can be NOT NULL.",
                format.table(), column, type.asSummaryString()));
    }

    @Override
    public boolean isEndOfStream(RowData next) {
        return false;
    }

    @Override
    public TypeInformation<RowData> getProducedType() {
        return produced;
    }
}
