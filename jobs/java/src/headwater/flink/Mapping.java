package headwater.flink;

import java.util.Arrays;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.flink.avro.shaded.org.apache.avro.LogicalTypes;
import org.apache.flink.avro.shaded.org.apache.avro.Schema;
import org.apache.flink.table.api.ValidationException;
import org.apache.flink.table.data.ArrayData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.types.logical.ArrayType;
import org.apache.flink.table.types.logical.BinaryType;
import org.apache.flink.table.types.logical.DecimalType;
import org.apache.flink.table.types.logical.LogicalType;
import org.apache.flink.table.types.logical.LogicalTypeRoot;
import org.apache.flink.table.types.logical.MapType;
import org.apache.flink.table.types.logical.RowType;
import org.apache.flink.table.types.logical.VarBinaryType;
import org.apache.flink.table.types.logical.VarCharType;
import org.apache.flink.table.types.logical.utils.LogicalTypeChecks;

/**
 * An Avro schema matched with the columns of a table, by name.
 *
 * <p>The schema drives: the wire form of a field is what the schema says, whatever nullability the column has. Each
 * mismatch is a {@link ValidationException} when the query is planned.
 */
final class Mapping {
    private static final int DAY_MS = 86_400_000;
    private static final int DAYS_MIN = -719_162; // 0001-01-01
    private static final int DAYS_MAX = 2_932_896; // 9999-12-31

    private final String table;
    private final Schema schema;
    private final boolean reading;
    private final Map<Schema, Composites.Record> stepped = new IdentityHashMap<>();

    private Mapping(String table, Schema schema, boolean reading) {
        this.table = table;
        this.schema = schema;
        this.reading = reading;
    }

    /** Fields of the schema that are no column are stepped over. */
    static Composites.Record forReading(String table, Schema schema, RowType columns) {
        return new Mapping(table, schema, true).record(schema, columns, "");
    }

    /** Fields of the schema that are no column are written as null, and must be nullable. */
    static Composites.Record forWriting(String table, Schema schema, RowType columns) {
        return new Mapping(table, schema, false).record(schema, columns, "");
    }

    private Composites.Record record(Schema record, RowType columns, String path) {
        List<Schema.Field> fields = record.getFields();
        int size = fields.size();
        String[] names = fields.stream().map(Schema.Field::name).toArray(String[]::new);
        for (String column : columns.getFieldNames()) {
            if (record.getField(column) == null) {
                throw invalid(step(path, column), "a column that is a field of Avro record " + record.getFullName()
                        + " (" + String.join(", ", names) + ")", "no such field");
            }
        }
        Value[] values = new Value[size];
        int[] targets = new int[size];
        RowData.FieldGetter[] getters = new RowData.FieldGetter[size];
        for (int i = 0; i < size; i++) {
            String name = step(path, names[i]);
            Schema field = fields.get(i).schema();
            targets[i] = columns.getFieldIndex(names[i]);
            if (targets[i] >= 0) {
                LogicalType type = columns.getTypeAt(targets[i]);
                // Top-level columns may be NOT NULL over nullable Avro: see RecordReader.
                values[i] = nullable(field, type, name, !path.isEmpty());
                getters[i] = RowData.createFieldGetter(type.copy(true), targets[i]);
            } else {
                if (!reading && !isNullable(field)) {
                    throw invalid(name, "a column, as the field is not nullable in Avro", "none");
                }
                values[i] = stepOver(field);
            }
        }
        return new Composites.Record(names, values, targets, getters, columns.getFieldCount(), bytesMin(record, 0));
    }

    private Value nullable(
            Schema field, LogicalType type, String path, boolean strict) {
        if (reading && strict && isNullable(field) && !type.isNullable()) {
            throw invalid(path, "a nullable type, as it is in Avro", type.asSummaryString());
        }
        if (field.getType() != Schema.Type.UNION) {
            return value(field, type, path);
        }
        List<Schema> branches = field.getTypes();
        Value[] values = new Value[branches.size()];
        int nullIndex = -1;
        int valueIndex = -1;
        for (int i = 0; i < values.length; i++) {
            if (branches.get(i).getType() == Schema.Type.NULL) {
                nullIndex = i;
                values[i] = new Scalars.Nulls();
            } else if (valueIndex < 0) {
                valueIndex = i;
                values[i] = value(branches.get(i), type, path);
            } else {
                throw invalid(path, "a union of null and one type in Avro", field.toString());
            }
        }
        if (valueIndex < 0) {
            throw invalid(path, "a union of null and one type in Avro", field.toString());
        }
        return new Composites.Union(values, nullIndex, valueIndex);
    }

    private Value value(Schema field, LogicalType type, String path) {
        switch (type.getTypeRoot()) {
            case ARRAY:
                if (field.getType() == Schema.Type.ARRAY) {
                    var items = ((ArrayType) type).getElementType();
                    return new Composites.Array(nullable(field.getElementType(), items, path + "[]", true),
                            ArrayData.createElementGetter(items.copy(true)));
                }
                break;
            case MAP:
                if (field.getType() == Schema.Type.MAP && isString(((MapType) type).getKeyType())) {
                    var items = ((MapType) type).getValueType();
                    return new Composites.Maps(nullable(field.getValueType(), items, path + "[]", true),
                            ArrayData.createElementGetter(items.copy(true)));
                }
                break;
            case ROW:
                if (field.getType() == Schema.Type.RECORD) {
                    return record(field, (RowType) type, path);
                }
                break;
            default:
                Value scalar = scalar(field, type);
                if (scalar != null) {
                    return scalar;
                }
        }
        throw invalid(path, expected(field) + ", as the field is " + described(field) + " in Avro",
                type.asSummaryString());
    }

    /** The value of a scalar field as a column of that type, or null where they do not fit. */
    private static Value scalar(Schema field, LogicalType type) {
        var logical = field.getLogicalType();
        switch (type.getTypeRoot()) {
            case BOOLEAN:
                return field.getType() == Schema.Type.BOOLEAN ? new Scalars.Booleans() : null;
            case INTEGER:
                return field.getType() == Schema.Type.INT ? anyInt() : null;
            case BIGINT:
                return field.getType() == Schema.Type.LONG ? new Scalars.Longs() : null;
            case FLOAT:
                return field.getType() == Schema.Type.FLOAT ? new Scalars.Floats() : null;
            case DOUBLE:
                return field.getType() == Schema.Type.DOUBLE ? new Scalars.Doubles() : null;
            case DATE:
                return logical instanceof LogicalTypes.Date
                        ? new Scalars.Ints("a date, in days since 1970,", DAYS_MIN, DAYS_MAX) : null;
            case TIME_WITHOUT_TIME_ZONE:
                return logical instanceof LogicalTypes.TimeMillis && LogicalTypeChecks.getPrecision(type) <= 3
                        ? new Scalars.Ints("a time, in milliseconds of the day,", 0, DAY_MS - 1) : null;
            case TIMESTAMP_WITHOUT_TIME_ZONE:
            case TIMESTAMP_WITH_LOCAL_TIME_ZONE:
                return timestamp(logical, type);
            case VARCHAR:
                return isString(type) ? text(field) : null;
            case BINARY:
            case VARBINARY:
                return bytes(field, type);
            case DECIMAL:
                return decimal(field, logical, (DecimalType) type);
            default:
                return null;
        }
    }

    private static Value anyInt() {
        return new Scalars.Ints("an int", Integer.MIN_VALUE, Integer.MAX_VALUE);
    }

    private static Value timestamp(
            org.apache.flink.avro.shaded.org.apache.avro.LogicalType logical, LogicalType type) {
        boolean local = logical instanceof LogicalTypes.LocalTimestampMillis
                || logical instanceof LogicalTypes.LocalTimestampMicros;
        boolean millis = logical instanceof LogicalTypes.TimestampMillis
                || logical instanceof LogicalTypes.LocalTimestampMillis;
        boolean micros = logical instanceof LogicalTypes.TimestampMicros
                || logical instanceof LogicalTypes.LocalTimestampMicros;
        boolean plain = type.getTypeRoot() == LogicalTypeRoot.TIMESTAMP_WITHOUT_TIME_ZONE;
        int precision = LogicalTypeChecks.getPrecision(type);
        boolean fits = (millis && precision == 3) || (micros && precision == 6);
        return fits && (plain || !local) ? new Scalars.Timestamps(millis ? 1 : 1000) : null;
    }

    private static Value text(Schema field) {
        switch (field.getType()) {
            case STRING:
                return new Scalars.Strings();
            case ENUM:
                return new Scalars.Enums(field.getEnumSymbols());
            default:
                return null;
        }
    }

    private static Value bytes(Schema field, LogicalType type) {
        boolean any = type instanceof VarBinaryType && ((VarBinaryType) type).getLength() == VarBinaryType.MAX_LENGTH;
        switch (field.getType()) {
            case BYTES:
                return any ? new Scalars.Bytes() : null;
            case FIXED:
                boolean exact = type instanceof BinaryType && ((BinaryType) type).getLength() == field.getFixedSize();
                return any || exact ? new Scalars.Fixed(field.getFixedSize()) : null;
            default:
                return null;
        }
    }

    private static Value decimal(
            Schema field, org.apache.flink.avro.shaded.org.apache.avro.LogicalType logical, DecimalType type) {
        if (!(logical instanceof LogicalTypes.Decimal)) {
            return null;
        }
        LogicalTypes.Decimal decimal = (LogicalTypes.Decimal) logical;
        return decimal.getPrecision() == type.getPrecision() && decimal.getScale() == type.getScale()
                ? new Scalars.Decimals(
                        field.getType() == Schema.Type.FIXED ? field.getFixedSize() : -1,
                        type.getPrecision(), type.getScale())
                : null;
    }

    /** A field that no column takes. A record may hold itself, so records are entered before their fields are built. */
    private Value stepOver(Schema field) {
        switch (field.getType()) {
            case NULL:
                return new Scalars.Nulls();
            case BOOLEAN:
                return new Scalars.Booleans();
            case INT:
                return anyInt();
            case LONG:
                return new Scalars.Longs();
            case FLOAT:
                return new Scalars.Floats();
            case DOUBLE:
                return new Scalars.Doubles();
            case STRING:
            case ENUM:
                return text(field);
            case BYTES:
                return new Scalars.Bytes();
            case FIXED:
                return new Scalars.Fixed(field.getFixedSize());
            case ARRAY:
                return new Composites.Array(stepOver(field.getElementType()), null);
            case MAP:
                return new Composites.Maps(stepOver(field.getValueType()), null);
            case UNION:
                List<Schema> branches = field.getTypes();
                Value[] values = branches.stream().map(this::stepOver).toArray(Value[]::new);
                return new Composites.Union(values, branches.indexOf(Schema.create(Schema.Type.NULL)), -1);
            default:
                return stepOverRecord(field);
        }
    }

    private Value stepOverRecord(Schema record) {
        Composites.Record known = stepped.get(record);
        if (known != null) {
            return known;
        }
        List<Schema.Field> fields = record.getFields();
        String[] names = fields.stream().map(Schema.Field::name).toArray(String[]::new);
        Value[] values = new Value[names.length];
        int[] columns = new int[names.length];
        Arrays.fill(columns, -1);
        Composites.Record made = new Composites.Record(names, values, columns, null, 0, bytesMin(record, 0));
        stepped.put(record, made);
        for (int i = 0; i < values.length; i++) {
            values[i] = stepOver(fields.get(i).schema());
        }
        return made;
    }

    /** The fewest bytes of a value; of what is nested too deep to tell, 0. */
    private static int bytesMin(Schema field, int depth) {
        switch (field.getType()) {
            case NULL:
                return 0;
            case FLOAT:
                return 4;
            case DOUBLE:
                return 8;
            case FIXED:
                return field.getFixedSize();
            case RECORD:
                return depth > 16 ? 1 : field.getFields().stream().mapToInt(f -> bytesMin(f.schema(), depth + 1)).sum();
            default:
                return 1;
        }
    }

    private static boolean isNullable(Schema field) {
        return field.getType() == Schema.Type.NULL || (field.getType() == Schema.Type.UNION && field.isNullable());
    }

    private static boolean isString(LogicalType type) {
        return type instanceof VarCharType && ((VarCharType) type).getLength() == VarCharType.MAX_LENGTH;
    }

    private static String step(String path, String name) {
        return path.isEmpty() ? name : path + "." + name;
    }

    private static String described(Schema field) {
        var logical = field.getLogicalType();
        String name = field.getType().getName();
        return logical == null ? name : name + " (" + logical.getName() + ")";
    }

    /** The SQL types that fit an Avro type, for people. */
    private static String expected(Schema field) {
        var logical = field.getLogicalType();
        if (logical instanceof LogicalTypes.Decimal) {
            LogicalTypes.Decimal decimal = (LogicalTypes.Decimal) logical;
            return "DECIMAL(" + decimal.getPrecision() + ", " + decimal.getScale() + ") or BYTES";
        }
        switch (logical == null ? "" : logical.getName()) {
            case "date":
                return "DATE or INT";
            case "time-millis":
                return "TIME or INT";
            case "timestamp-millis":
                return "TIMESTAMP_LTZ(3), TIMESTAMP(3) or BIGINT";
            case "timestamp-micros":
                return "TIMESTAMP_LTZ(6), TIMESTAMP(6) or BIGINT";
            case "local-timestamp-millis":
                return "TIMESTAMP(3) or BIGINT";
            case "local-timestamp-micros":
                return "TIMESTAMP(6) or BIGINT";
            default:
        }
        switch (field.getType()) {
            case INT:
                return "INT";
            case LONG:
                return "BIGINT";
            case STRING:
            case ENUM:
                return "STRING";
            case BYTES:
                return "BYTES";
            case FIXED:
                return "BYTES or BINARY(" + field.getFixedSize() + ")";
            case MAP:
                return "MAP<STRING, ...>";
            case RECORD:
                return field.getFields().stream().map(Schema.Field::name).collect(Collectors.joining(", ", "ROW<", ">"));
            case ARRAY:
                return "ARRAY<...>";
            default:
                return field.getType().getName().toUpperCase();
        }
    }

    private ValidationException invalid(String path, String expected, String found) {
        return new ValidationException(String.format(
                "Table %s, column `%s`: expected %s, found %s. The schema is %s.",
                table, path, expected, found, schema.getFullName()));
    }
}
