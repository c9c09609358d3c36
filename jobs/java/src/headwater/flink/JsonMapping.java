package headwater.flink;

import java.util.List;
import org.apache.flink.avro.shaded.org.apache.avro.LogicalTypes;
import org.apache.flink.avro.shaded.org.apache.avro.Schema;
import org.apache.flink.table.api.ValidationException;
import org.apache.flink.table.types.logical.ArrayType;
import org.apache.flink.table.types.logical.LogicalType;
import org.apache.flink.table.types.logical.LogicalTypeRoot;
import org.apache.flink.table.types.logical.MapType;
import org.apache.flink.table.types.logical.RowType;

/** An Avro schema as readers of JSON, for columns that {@link Mapping} has found to fit it. */
final class JsonMapping {
    private final String table;

    private JsonMapping(String table) {
        this.table = table;
    }

    /**
     * @throws ValidationException for a type of Avro's that JSON is not read as, and for a column that takes the number
     *     behind a time, a date or a decimal: in JSON there is none
     */
    static JsonComposites.Record record(String table, Schema schema, RowType columns) {
        return new JsonMapping(table).record(schema, columns, "");
    }

    /** @param columns null where all fields are looked at and left */
    private JsonComposites.Record record(Schema record, RowType columns, String path) {
        List<Schema.Field> fields = record.getFields();
        String[] names = fields.stream().map(Schema.Field::name).toArray(String[]::new);
        JsonValue[] values = new JsonValue[names.length];
        int[] targets = new int[names.length];
        for (int i = 0; i < names.length; i++) {
            targets[i] = columns == null ? -1 : columns.getFieldIndex(names[i]);
            LogicalType column = targets[i] < 0 ? null : columns.getTypeAt(targets[i]);
            values[i] = value(fields.get(i).schema(), column, path.isEmpty() ? names[i] : path + "." + names[i]);
        }
        return new JsonComposites.Record(names, values, targets, columns == null ? 0 : columns.getFieldCount());
    }

    private JsonValue value(Schema field, LogicalType column, String path) {
        switch (field.getType()) {
            case UNION:
                List<Schema> others = field.getTypes().stream().filter(each -> each.getType() != Schema.Type.NULL).toList();
                if (others.size() == 1 && field.isNullable()) {
                    return new JsonComposites.Nullable(value(others.get(0), column, path));
                }
                throw invalid(path, "a union of null and one type in Avro", field.toString());
            case RECORD:
                return record(field, (RowType) column, path);
            case ARRAY:
                LogicalType items = column == null ? null : ((ArrayType) column).getElementType();
                return new JsonComposites.Array(value(field.getElementType(), items, path + "[]"));
            case MAP:
                LogicalType values = column == null ? null : ((MapType) column).getValueType();
                return new JsonComposites.Maps(value(field.getValueType(), values, path + "[]"));
            default:
                return field.getLogicalType() == null ? primitive(field, path) : logical(field, column, path);
        }
    }

    private JsonValue primitive(Schema field, String path) {
        switch (field.getType()) {
            case BOOLEAN:
                return new JsonScalars.Booleans();
            case INT:
                return new JsonScalars.Integers(true);
            case LONG:
                return new JsonScalars.Integers(false);
            case FLOAT:
                return new JsonScalars.Floats();
            case DOUBLE:
                return new JsonScalars.Doubles();
            case STRING:
                return new JsonScalars.Strings();
            case BYTES:
                return new JsonScalars.Bytes();
            default:
                throw invalid(path, "a type that JSON is read as", field.toString());
        }
    }

    private JsonValue logical(Schema field, LogicalType column, String path) {
        var logical = field.getLogicalType();
        if (logical instanceof LogicalTypes.Decimal) {
            LogicalTypes.Decimal decimal = (LogicalTypes.Decimal) logical;
            require(column, LogicalTypeRoot.DECIMAL, path);
            return new JsonScalars.Decimals(decimal.getPrecision(), decimal.getScale());
        }
        switch (logical.getName()) {
            case "date":
                require(column, LogicalTypeRoot.DATE, path);
                return new JsonScalars.Dates();
            case "timestamp-micros":
                require(column, LogicalTypeRoot.TIMESTAMP_WITH_LOCAL_TIME_ZONE, path);
                return new JsonScalars.Timestamps();
            case "local-timestamp-micros":
                require(column, LogicalTypeRoot.TIMESTAMP_WITHOUT_TIME_ZONE, path);
                return new JsonScalars.Timestamps();
            default:
                throw invalid(path, "a type that JSON is read as", field.toString());
        }
    }

    private void require(LogicalType column, LogicalTypeRoot root, String path) {
        if (column != null && column.getTypeRoot() != root) {
            throw invalid(path, "a " + root + " over JSON", column.asSummaryString());
        }
    }

    private ValidationException invalid(String path, String expected, String found) {
        return new ValidationException(
                String.format("Table %s, column `%s`: expected %s, found %s.", table, path, expected, found));
    }
}
