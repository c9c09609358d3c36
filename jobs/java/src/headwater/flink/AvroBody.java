package headwater.flink;

import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.types.logical.RowType;

/** Avro's binary encoding. */
final class AvroBody implements Body {
    private final Composites.Record record;
    private final WireInput in = new WireInput();

    AvroBody(WireFormat format, RowType columns) {
        record = Mapping.forReading(format.table(), format.schema(), columns);
    }

    @Override
    public void read(byte[] message, int from, GenericRowData row) {
        in.reset(message, from);
        record.readInto(row, in);
        if (in.remaining() > 0) {
            throw in.bad("the end of the record", in.remaining() + " more bytes");
        }
    }
}
