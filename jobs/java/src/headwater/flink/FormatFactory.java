package headwater.flink;

import java.util.Set;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.serialization.SerializationSchema;
import org.apache.flink.avro.shaded.org.apache.avro.Schema;
import org.apache.flink.avro.shaded.org.apache.avro.SchemaParseException;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.configuration.ConfigOptions;
import org.apache.flink.configuration.ReadableConfig;
import org.apache.flink.table.api.ValidationException;
import org.apache.flink.table.connector.format.DecodingFormat;
import org.apache.flink.table.connector.format.EncodingFormat;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.factories.DeserializationFormatFactory;
import org.apache.flink.table.factories.DynamicTableFactory;
import org.apache.flink.table.factories.FactoryUtil;
import org.apache.flink.table.factories.SerializationFormatFactory;

/**
 * {@code 'format' = 'headwater-avro'}: Avro in the Confluent wire format, with schema and id from the table's options.
 * With {@code 'encoding' = 'json'} the records are JSON, and the schema says what they hold.
 *
 * <p>No registry is asked, and no record stops a job: one that does not decode becomes a row of NULLs with the reason
 * and the original bytes in metadata columns.
 */
public final class FormatFactory implements DeserializationFormatFactory, SerializationFormatFactory {
    static final String IDENTIFIER = "headwater-avro";

    static final ConfigOption<String> SCHEMA = ConfigOptions.key("schema")
            .stringType()
            .noDefaultValue()
            .withDescription("The Avro schema of the topic, a record, as JSON.");
    static final ConfigOption<Integer> SCHEMA_ID = ConfigOptions.key("schema-id")
            .intType()
            .noDefaultValue()
            .withDescription("The id written before every record and required of every record; 0 reads records with a "
                    + "header of any id, and bare Avro.");
    static final ConfigOption<Changes> CHANGELOG = ConfigOptions.key("changelog")
            .enumType(Changes.class)
            .defaultValue(Changes.INSERT)
            .withDescription("insert: each record is a row. versioned: each record is a new version of the row with its "
                    + "primary key, for event-time temporal joins and nothing else.");
    static final ConfigOption<Encoding> ENCODING = ConfigOptions.key("encoding")
            .enumType(Encoding.class)
            .defaultValue(Encoding.AVRO)
            .withDescription("How records are written behind the header: avro; or json, of records to read, whose "
                    + "fields are those of the schema.");

    /** How a record's body is written. */
    enum Encoding {
        AVRO,
        JSON
    }

    /** What a record read is. */
    enum Changes {
        INSERT,
        VERSIONED
    }

    @Override
    public String factoryIdentifier() {
        return IDENTIFIER;
    }

    @Override
    public Set<ConfigOption<?>> requiredOptions() {
        return Set.of(SCHEMA, SCHEMA_ID);
    }

    @Override
    public Set<ConfigOption<?>> optionalOptions() {
        return Set.of(CHANGELOG, ENCODING);
    }

    @Override
    public DecodingFormat<DeserializationSchema<RowData>> createDecodingFormat(
            DynamicTableFactory.Context context, ReadableConfig options) {
        FactoryUtil.validateFactoryOptions(this, options);
        return new ReadingFormat(wireFormat(context, options), options.get(CHANGELOG) == Changes.VERSIONED);
    }

    @Override
    public EncodingFormat<SerializationSchema<RowData>> createEncodingFormat(
            DynamicTableFactory.Context context, ReadableConfig options) {
        FactoryUtil.validateFactoryOptions(this, options);
        if (options.get(ENCODING) != Encoding.AVRO) {
            throw new ValidationException(String.format("Table %s: expected '%s' = 'avro', as no other is written.",
                    context.getObjectIdentifier().asSummaryString(), ENCODING.key()));
        }
        // The schema id tells whether these are the options of the key: a format is not told what it encodes.
        String keyId = context.getCatalogTable().getOptions().get("key." + IDENTIFIER + "." + SCHEMA_ID.key());
        boolean key = keyId != null && keyId.equals(String.valueOf(options.get(SCHEMA_ID)));
        return new WritingFormat(wireFormat(context, options), key);
    }

    private static WireFormat wireFormat(DynamicTableFactory.Context context, ReadableConfig options) {
        String table = context.getObjectIdentifier().asSummaryString();
        String text = options.get(SCHEMA);
        Schema schema;
        try {
            schema = new Schema.Parser().parse(text);
        } catch (SchemaParseException invalid) {
            throw new ValidationException(String.format(
                    "Table %s: expected an Avro schema as JSON in option '%s', found: %s", table, SCHEMA.key(), text),
                    invalid);
        }
        if (schema.getType() != Schema.Type.RECORD) {
            throw new ValidationException(String.format(
                    "Table %s: expected an Avro record in option '%s', found: %s", table, SCHEMA.key(), text));
        }
        return new WireFormat(table, text, options.get(SCHEMA_ID), options.get(ENCODING));
    }
}
