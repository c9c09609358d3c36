package headwater.flink;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.flink.table.data.ArrayData;
import org.apache.flink.table.data.GenericArrayData;
import org.apache.flink.table.data.GenericMapData;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.MapData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.StringData;

/** Avro's unions, arrays, maps and records. */
final class Composites {
    // What one record may hold of items that take no bytes, whose count nothing else bounds.
    private static final int WEIGHTLESS_MAX = 1 << 16;

    private Composites() {}

    /** A union: of null and one type where it is read or written, of anything where it is stepped over. */
    static final class Union extends Value {
        private final Value[] branches;
        private final int nullIndex;
        private final int valueIndex;

        Union(Value[] branches, int nullIndex, int valueIndex) {
            super(1);
            this.branches = branches;
            this.nullIndex = nullIndex;
            this.valueIndex = valueIndex;
        }

        @Override
        Object read(WireInput in) {
            int index = branch(in);
            return index == nullIndex ? null : branches[index].read(in);
        }

        @Override
        void skip(WireInput in) {
            branches[branch(in)].skip(in);
        }

        @Override
        void write(Object value, WireOutput out) {
            out.writeLong(valueIndex);
            branches[valueIndex].write(value, out);
        }

        @Override
        void writeNullable(Object value, WireOutput out) {
            if (value != null) {
                write(value, out);
            } else if (nullIndex < 0) {
                super.writeNullable(null, out);
            } else {
                out.writeLong(nullIndex);
            }
        }

        private int branch(WireInput in) {
            return in.readIndex(branches.length, "the index of a union's branch");
        }
    }

    static final class Array extends Value {
        private final Value item;
        private final ArrayData.ElementGetter items;

        Array(Value item, ArrayData.ElementGetter items) {
            super(1);
            this.item = item;
            this.items = items;
        }

        @Override
        Object read(WireInput in) {
            List<Object> found = new ArrayList<>();
            for (long left = in.readBlockCount(item.bytesMin); left != 0; left = in.readBlockCount(item.bytesMin)) {
                requireBounded(in, item.bytesMin, found.size() + left);
                for (; left > 0; left--) {
                    try {
                        found.add(item.read(in));
                    } catch (BadRecord bad) {
                        throw bad.within("[" + found.size() + "]");
                    }
                }
            }
            return new GenericArrayData(found.toArray());
        }

        @Override
        void skip(WireInput in) {
            for (long left = in.readBlockCount(item.bytesMin); left != 0; left = in.readBlockCount(item.bytesMin)) {
                for (; left > 0 && item.bytesMin > 0; left--) {
                    item.skip(in);
                }
            }
        }

        @Override
        void write(Object value, WireOutput out) {
            ArrayData array = (ArrayData) value;
            int size = array.size();
            if (size > 0) {
                out.writeLong(size);
            }
            for (int i = 0; i < size; i++) {
                try {
                    item.writeNullable(items.getElementOrNull(array, i), out);
                } catch (BadRecord bad) {
                    throw bad.within("[" + i + "]");
                }
            }
            out.writeLong(0);
        }
    }

    static final class Maps extends Value {
        private final Value key = new Scalars.Strings();
        private final Value item;
        private final ArrayData.ElementGetter items;

        Maps(Value item, ArrayData.ElementGetter items) {
            super(1);
            this.item = item;
            this.items = items;
        }

        @Override
        Object read(WireInput in) {
            Map<StringData, Object> found = new HashMap<>();
            for (long left = block(in); left != 0; left = block(in)) {
                for (; left > 0; left--) {
                    StringData name = (StringData) key.read(in);
                    try {
                        found.put(name, item.read(in));
                    } catch (BadRecord bad) {
                        throw bad.within("['" + name + "']");
                    }
                }
            }
            return new GenericMapData(found);
        }

        @Override
        void skip(WireInput in) {
            for (long left = block(in); left != 0; left = block(in)) {
                for (; left > 0; left--) {
                    key.skip(in);
                    item.skip(in);
                }
            }
        }

        @Override
        void write(Object value, WireOutput out) {
            MapData map = (MapData) value;
            ArrayData keys = map.keyArray();
            ArrayData values = map.valueArray();
            if (map.size() > 0) {
                out.writeLong(map.size());
            }
            for (int i = 0; i < map.size(); i++) {
                Object name = keys.isNullAt(i) ? null : keys.getString(i);
                try {
                    key.writeNullable(name, out);
                    item.writeNullable(items.getElementOrNull(values, i), out);
                } catch (BadRecord bad) {
                    throw bad.within("['" + name + "']");
                }
            }
            out.writeLong(0);
        }

        private long block(WireInput in) {
            return in.readBlockCount(key.bytesMin + item.bytesMin);
        }
    }

    /** A record, its fields matched to columns by name. Not final in its parts, as an Avro record may hold itself. */
    static final class Record extends Value {
        private final String[] names;
        private final Value[] fields;
        private final int[] columns;
        private final RowData.FieldGetter[] getters;
        private final int arity;

        /**
         * @param names the Avro fields, in order
         * @param fields their types; may still be filled in after the constructor returns
         * @param columns where each goes in the row; -1 to step over it, or to write null
         * @param getters how each is taken from a row; null where there is no column
         * @param arity the row's number of columns
         */
        Record(String[] names, Value[] fields, int[] columns, RowData.FieldGetter[] getters, int arity, int bytesMin) {
            super(bytesMin);
            this.names = names;
            this.fields = fields;
            this.columns = columns;
            this.getters = getters;
            this.arity = arity;
        }

        @Override
        Object read(WireInput in) {
            GenericRowData row = new GenericRowData(arity);
            in.enter();
            readInto(row, in);
            in.leave();
            return row;
        }

        void readInto(GenericRowData row, WireInput in) {
            int i = 0;
            try {
                for (; i < fields.length; i++) {
                    if (columns[i] < 0) {
                        fields[i].skip(in);
                    } else {
                        row.setField(columns[i], fields[i].read(in));
                    }
                }
            } catch (BadRecord bad) {
                throw bad.within(names[i]);
            }
        }

        @Override
        void skip(WireInput in) {
            int i = 0;
            in.enter();
            try {
                for (; i < fields.length; i++) {
                    fields[i].skip(in);
                }
            } catch (BadRecord bad) {
                throw bad.within(names[i]);
            }
            in.leave();
        }

        @Override
        void write(Object value, WireOutput out) {
            RowData row = (RowData) value;
            int i = 0;
            try {
                for (; i < fields.length; i++) {
                    fields[i].writeNullable(columns[i] < 0 ? null : getters[i].getFieldOrNull(row), out);
                }
            } catch (BadRecord bad) {
                throw bad.within(names[i]);
            }
        }
    }

    private static void requireBounded(WireInput in, int bytesMin, long count) {
        if (bytesMin == 0 && count > WEIGHTLESS_MAX) {
            throw in.bad("at most " + WEIGHTLESS_MAX + " items that take no bytes", Long.toUnsignedString(count));
        }
    }
}
