package headwater.flink;

import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonParser;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonToken;
import org.apache.flink.table.data.GenericArrayData;
import org.apache.flink.table.data.GenericMapData;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.StringData;

/** What may be null, and arrays, maps and records of JSON topics. */
final class JsonComposites {
    private JsonComposites() {}

    static final class Nullable extends JsonValue {
        private final JsonValue value;

        Nullable(JsonValue value) {
            this.value = value;
        }

        @Override
        Object read(JsonParser in) throws IOException {
            return in.currentToken() == JsonToken.VALUE_NULL ? null : value.read(in);
        }
    }

    static final class Array extends JsonValue {
        private final JsonValue item;

        Array(JsonValue item) {
            this.item = item;
        }

        @Override
        Object read(JsonParser in) throws IOException {
            if (in.currentToken() != JsonToken.START_ARRAY) {
                throw bad("an array", in);
            }
            List<Object> found = new ArrayList<>();
            while (in.nextToken() != JsonToken.END_ARRAY) {
                found.add(item.read(in));
            }
            return new GenericArrayData(found.toArray());
        }
    }

    static final class Maps extends JsonValue {
        private final JsonValue item;

        Maps(JsonValue item) {
            this.item = item;
        }

        @Override
        Object read(JsonParser in) throws IOException {
            if (in.currentToken() != JsonToken.START_OBJECT) {
                throw bad("an object", in);
            }
            Map<StringData, Object> found = new HashMap<>();
            for (String name = in.nextFieldName(); name != null; name = in.nextFieldName()) {
                StringData key = JsonScalars.text(name);
                if (found.containsKey(key)) {
                    throw twice();
                }
                in.nextToken();
                found.put(key, item.read(in));
            }
            return new GenericMapData(found);
        }
    }

    /** An object with fields: one that is missing is null, if it may be; one that is unknown is stepped over. */
    static final class Record extends JsonValue {
        private final Map<String, Integer> places = new HashMap<>();
        private final String[] names;
        private final JsonValue[] fields;
        private final int[] columns;
        private final int arity;

        /**
         * @param names the fields, in order
         * @param fields their types
         * @param columns where each goes in the row; -1 for one that is looked at and left
         * @param arity the row's number of columns
         */
        Record(String[] names, JsonValue[] fields, int[] columns, int arity) {
            for (int i = 0; i < names.length; i++) {
                places.put(names[i], i);
            }
            this.names = names;
            this.fields = fields;
            this.columns = columns;
            this.arity = arity;
        }

        @Override
        Object read(JsonParser in) throws IOException {
            GenericRowData row = new GenericRowData(arity);
            readInto(row, in);
            return row;
        }

        void readInto(GenericRowData row, JsonParser in) throws IOException {
            if (in.currentToken() != JsonToken.START_OBJECT) {
                throw bad("an object", in);
            }
            boolean[] seen = new boolean[fields.length];
            for (String name = in.nextFieldName(); name != null; name = in.nextFieldName()) {
                Integer place = places.get(name);
                in.nextToken();
                if (place == null) {
                    in.skipChildren();
                    continue;
                }
                if (seen[place]) {
                    throw twice();
                }
                seen[place] = true;
                Object value = fields[place].read(in);
                if (columns[place] >= 0) {
                    row.setField(columns[place], value);
                }
            }
            for (int i = 0; i < seen.length; i++) {
                if (!seen[i] && !(fields[i] instanceof Nullable)) {
                    throw new BadRecord("a value", "nothing").within(names[i]);
                }
            }
        }
    }

    /** Which of the two was meant nobody knows. */
    private static BadRecord twice() {
        return new BadRecord("the field once", "it twice");
    }
}
