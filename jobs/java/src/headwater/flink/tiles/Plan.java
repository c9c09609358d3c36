package headwater.flink.tiles;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.api.ValidationException;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.types.DataType;
import org.apache.flink.table.types.logical.LogicalType;
import org.apache.flink.table.types.logical.RowType;

/**
 * What a view asks for: the text of a call, against the columns of its table.
 *
 * <p>The text is {@code "<hop>; <name> <function> <column> <window> <slide>; ..."}, spans in milliseconds, {@code *} for
 * no column. Features that need the same of a column share a slot of the tile.
 */
final class Plan {
    /** One feature of the output. */
    private static final class Feature {
        final Aggregate aggregate;
        final int slot;
        final long slideMs;
        final int place;

        Feature(Aggregate aggregate, int slot, long slideMs, int place) {
            this.aggregate = aggregate;
            this.slot = slot;
            this.slideMs = slideMs;
            this.place = place;
        }
    }

    /** All features of one window: how long it is, and what is still of use beyond it. */
    static final class Window {
        final long tiles;
        final long[] slidesMs;
        private final List<Feature> features;
        /** Slots that this window or a longer one reads. */
        final int[] slots;

        private Window(long tiles, List<Feature> features, int[] slots) {
            this.tiles = tiles;
            this.features = features;
            this.slots = slots;
            slidesMs = features.stream().mapToLong(each -> each.slideMs).distinct().toArray();
        }

        void fill(GenericRowData row, Tile found) {
            for (Feature each : features) {
                row.setField(each.place, each.aggregate.result(found.slots[each.slot]));
            }
        }
    }

    final long hopMs;
    final int size;
    final DataType output;
    /** From the shortest to the longest. */
    final List<Window> windows = new ArrayList<>();

    private final Kind[] kinds;
    private final RowData.FieldGetter[] columns;

    /**
     * @param ofChanges whether records are changes of rows, see {@link ChangedTiles}
     */
    Plan(String text, RowType input, boolean ofChanges) {
        String[] parts = text.trim().split("\\s*;\\s*");
        hopMs = Long.parseLong(parts[0]);
        size = parts.length - 1;
        Map<String, Integer> slots = new LinkedHashMap<>();
        List<Kind> kindOf = new ArrayList<>();
        List<RowData.FieldGetter> columnOf = new ArrayList<>();
        TreeMap<Long, List<Feature>> byWindow = new TreeMap<>();
        DataTypes.Field[] fields = new DataTypes.Field[size];
        for (int place = 0; place < size; place++) {
            String[] words = parts[place + 1].split("\\s+");
            int column = "*".equals(words[2]) ? -1 : column(words, input);
            LogicalType type = column < 0 ? null : input.getTypeAt(column);
            Aggregate plain = Aggregate.of(words[0], words[1], type);
            Aggregate aggregate = ofChanges ? plain.ofChanges(words[0], words[1]) : plain;
            int slot = slots.computeIfAbsent(aggregate.kind + " " + column, fresh -> {
                kindOf.add(aggregate.kind);
                columnOf.add(column < 0 ? row -> true : RowData.createFieldGetter(type, column));
                return kindOf.size() - 1;
            });
            byWindow.computeIfAbsent(Long.parseLong(words[3]) / hopMs, none -> new ArrayList<>())
                    .add(new Feature(aggregate, slot, Long.parseLong(words[4]), place));
            fields[place] = DataTypes.FIELD(words[0], aggregate.output);
        }
        kinds = kindOf.toArray(new Kind[0]);
        columns = columnOf.toArray(new RowData.FieldGetter[0]);
        output = DataTypes.ROW(fields).notNull().bridgedTo(RowData.class);
        TreeSet<Integer> needed = new TreeSet<>();
        for (Map.Entry<Long, List<Feature>> each : byWindow.descendingMap().entrySet()) {
            each.getValue().forEach(feature -> needed.add(feature.slot));
            windows.add(0, new Window(each.getKey(), each.getValue(), needed.stream().mapToInt(at -> at).toArray()));
        }
    }

    private static int column(String[] words, RowType input) {
        int found = input.getFieldIndex(words[2]);
        if (found < 0) {
            throw new ValidationException(String.format(
                    "Feature %s: expected a column out of %s for %s, found: %s",
                    words[0], input.getFieldNames(), words[1], words[2]));
        }
        return found;
    }

    Tile tile() {
        return new Tile(kinds);
    }

    /** Count a record, and take what of it is a value. */
    void add(Tile tile, RowData row, long time) {
        tile.records++;
        for (int slot = 0; slot < kinds.length; slot++) {
            Object value = Values.kept(columns[slot].getFieldOrNull(row));
            if (value != null) {
                tile.slots[slot].add(value, time);
            }
        }
    }

    /** Count what a change adds to a tile, or with sign -1 takes from it. */
    void change(Tile tile, int sign, RowData row, Position at) {
        tile.records += sign;
        for (int slot = 0; slot < kinds.length; slot++) {
            Object value = Values.kept(columns[slot].getFieldOrNull(row));
            if (value != null) {
                tile.slots[slot].change(sign, value, at);
            }
        }
    }

    long longest() {
        return windows.get(windows.size() - 1).tiles;
    }
}
