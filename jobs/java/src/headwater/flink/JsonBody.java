package headwater.flink;

import java.io.IOException;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonFactory;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonParser;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonProcessingException;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonStreamContext;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonToken;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.StreamReadConstraints;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.exc.StreamConstraintsException;
import org.apache.flink.table.api.ValidationException;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.types.logical.RowType;

/**
 * JSON (RFC 8259) in UTF-8, described by an Avro record.
 *
 * <p>A record is good or bad whatever a query reads of it: every field of the schema is looked at. Of what the schema
 * does not name only the syntax counts.
 */
final class JsonBody implements Body {
    /** Levels of objects and arrays; {@code schemas/json_codec.py} has the same bound. */
    private static final int DEPTH_MAX = 400;
    /** The first of its bytes; no JSON begins with it. */
    private static final byte BYTE_ORDER_MARK = (byte) 0xef;

    private static final JsonFactory FACTORY = JsonFactory.builder()
            // Names of fields that are ignored may be any number of different ones.
            .disable(JsonFactory.Feature.INTERN_FIELD_NAMES)
            .disable(JsonFactory.Feature.FAIL_ON_SYMBOL_HASH_OVERFLOW)
            .streamReadConstraints(StreamReadConstraints.builder()
                    .maxNestingDepth(DEPTH_MAX)
                    .maxNameLength(Integer.MAX_VALUE)
                    .maxNumberLength(Integer.MAX_VALUE)
                    .maxStringLength(Integer.MAX_VALUE)
                    .build())
            .build();

    private final JsonComposites.Record record;

    /**
     * @throws ValidationException naming a column that does not fit the schema
     */
    JsonBody(WireFormat format, RowType columns) {
        Mapping.forReading(format.table(), format.schema(), columns); // refuses what does not fit
        record = JsonMapping.record(format.table(), format.schema(), columns);
    }

    @Override
    public void read(byte[] message, int from, GenericRowData row) {
        int bad = Utf8.firstBad(message, from, message.length);
        if (bad >= 0) {
            throw at(fieldAt(message, from, bad), new BadRecord(bad, "text in UTF-8", "a byte that is not"));
        }
        requireUnmarked(message, from);
        try (JsonParser in = parser(message, from)) {
            try {
                if (in.nextToken() == null) {
                    throw new BadRecord("a JSON object", "an empty record");
                }
                record.readInto(row, in);
                if (in.nextToken() != null) {
                    throw new BadRecord((int) in.currentTokenLocation().getByteOffset() + from,
                            "the end of the record behind the object", "more");
                }
            } catch (BadRecord wrong) {
                JsonToken token = in.currentToken();
                boolean entered = token == JsonToken.START_OBJECT || token == JsonToken.START_ARRAY;
                throw at(path(entered ? in.getParsingContext().getParent() : in.getParsingContext()), wrong);
            } catch (StreamConstraintsException tooDeep) {
                throw new BadRecord("at most " + DEPTH_MAX + " levels of objects and arrays", "more");
            } catch (JsonProcessingException notJson) {
                long position = notJson.getLocation() == null ? 0 : notJson.getLocation().getByteOffset();
                String problem = JsonValue.shown(notJson.getOriginalMessage().replace('\n', ' '));
                throw at(path(in.getParsingContext()), new BadRecord((int) position + from, "JSON", problem));
            }
        } catch (IOException notText) {
            throw new BadRecord("JSON", String.valueOf(notText.getMessage()));
        }
    }

    private static JsonParser parser(byte[] message, int from) throws IOException {
        return FACTORY.createParser(message, from, message.length - from);
    }

    /** Jackson would take a byte order mark, or zero bytes, to say that the text is in UTF-16 or UTF-32. */
    private static void requireUnmarked(byte[] message, int from) {
        if (message.length > from && message[from] == BYTE_ORDER_MARK) {
            throw new BadRecord(from, "JSON", "a byte order mark");
        }
        for (int i = from; i < Math.min(message.length, from + 4); i++) {
            if (message[i] == 0) {
                throw new BadRecord(i, "JSON", "a zero byte");
            }
        }
    }

    private static BadRecord at(String path, BadRecord bad) {
        return path.isEmpty() ? bad : bad.within(path);
    }

    /** Where the parser stands: {@code lines[2].sku}. */
    private static String path(JsonStreamContext context) {
        StringBuilder path = new StringBuilder();
        for (JsonStreamContext each = context; each != null; each = each.getParent()) {
            String step = each.inArray() ? "[" + each.getCurrentIndex() + "]" : each.getCurrentName();
            if (step != null) {
                path.insert(0, path.length() == 0 || path.charAt(0) == '[' ? step : step + ".");
            }
        }
        return path.toString();
    }

    /** The field that a byte lies in, as far as the text can be read. */
    private static String fieldAt(byte[] message, int from, int position) {
        String path = "";
        try (JsonParser in = parser(message, from)) {
            while (in.nextToken() != null && in.currentTokenLocation().getByteOffset() <= position - from) {
                path = path(in.getParsingContext());
            }
        } catch (IOException notJson) {
            // So far and no further.
        }
        return path;
    }
}
