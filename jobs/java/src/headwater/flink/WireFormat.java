package headwater.flink;

import java.io.Serializable;
import org.apache.flink.avro.shaded.org.apache.avro.Schema;

/**
 * What the options of a table say of its records: one zero byte, the big-endian four-byte schema id, the body.
 *
 * @param table for messages
 * @param schemaText the Avro schema as JSON, known to parse
 * @param schemaId the id before every body; {@link #ANY_ID}: of records to read, any, or no header at all
 * @param encoding of the body
 */
record WireFormat(String table, String schemaText, int schemaId, FormatFactory.Encoding encoding)
        implements Serializable {
    static final int HEADER_BYTES = 5;
    static final int ANY_ID = 0;

    Schema schema() {
        return new Schema.Parser().parse(schemaText);
    }
}
