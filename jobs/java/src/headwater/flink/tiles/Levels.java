package headwater.flink.tiles;

import java.util.Iterator;
import java.util.Map;
import org.apache.flink.table.api.dataview.MapView;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.functions.ProcessTableFunction;

/**
 * The tiles of a key on their levels. Those of a level are {@value #FANOUT} times as long as those below, so that a
 * window of n base tiles is put together from some {@value #FANOUT} log n of them, and nothing is ever subtracted.
 */
final class Levels {
    private static final int FANOUT = 8;
    /** Up to so many steps it is cheaper to ask for every tile that may have expired than to look at all there are. */
    private static final long STEPS_MAX = 64;
    /** A tile's key is its number times this plus its level. */
    private static final int LEVELS = 64;
    private static final int ONLY = 0;

    private final Plan plan;
    /** Base tiles in a tile of each level. */
    private final long[] spans;

    Levels(Plan plan) {
        this.plan = plan;
        int levels = 1;
        for (long span = FANOUT; span <= plan.longest(); span *= FANOUT) {
            levels++;
        }
        spans = new long[levels];
        spans[0] = 1;
        for (int level = 1; level < levels; level++) {
            spans[level] = spans[level - 1] * FANOUT;
        }
    }

    /** The key of a base tile. */
    static long base(long number) {
        return key(0, number);
    }

    /** Make a base tile's part of its parents. */
    void addToParents(MapView<Long, Tile> tiles, long number, Tile part) throws Exception {
        for (int level = 1; level < spans.length; level++) {
            add(tiles, key(level, Math.floorDiv(number, spans[level])), part);
        }
    }

    /** Make a part of a base tile part of it and of its parents; what then holds no record any more goes. */
    void addToAll(MapView<Long, Tile> tiles, long number, Tile part) throws Exception {
        add(tiles, base(number), part);
        addToParents(tiles, number, part);
    }

    private void add(MapView<Long, Tile> tiles, long key, Tile part) throws Exception {
        Tile whole = tiles.get(key);
        if (whole == null) {
            whole = plan.tile();
        }
        whole.merge(part);
        if (whole.records == 0) {
            tiles.remove(key);
        } else {
            tiles.put(key, whole);
        }
    }

    /**
     * Fill a row with the windows that end before base tile number `end`, and say whether it is due: because something
     * has changed, or as a slide of a window that holds records or did at the row before. Slides to come get a timer.
     */
    boolean sample(GenericRowData row, MapView<Long, Tile> tiles, MapView<Integer, Long> newest, long end,
            boolean changed, ProcessTableFunction.TimeContext<Long> time) throws Exception {
        long endMs = end * plan.hopMs;
        boolean due = changed;
        Tile found = plan.tile();
        long start = end;
        for (Plan.Window window : plan.windows) {
            gather(tiles, end - window.tiles, start, found, window.slots);
            start = end - window.tiles;
            window.fill(row, found);
            for (long slideMs : window.slidesMs) {
                due = due || (endMs % slideMs == 0 && (found.records > 0 || heldBefore(tiles, newest, window.tiles)));
                if (found.records > 0) {
                    time.registerOnTime((Math.floorDiv(endMs, slideMs) + 1) * slideMs - 1);
                }
            }
        }
        if (due) {
            sweep(tiles, newest, end);
        }
        return due;
    }

    /** Whether a window held records at the row before: one that was found empty there needs no row that says so. */
    private boolean heldBefore(MapView<Long, Tile> tiles, MapView<Integer, Long> newest, long length) throws Exception {
        Long end = newest.get(ONLY);
        if (end == null) {
            return false;
        }
        Tile found = plan.tile();
        gather(tiles, end - length, end, found, new int[0]);
        return found.records > 0;
    }

    /** Merge the base tiles from start to before end, all of them closed: the largest that fit, from the right. */
    private void gather(MapView<Long, Tile> tiles, long start, long end, Tile into, int[] slots) throws Exception {
        for (long at = end; at > start; ) {
            int level = spans.length - 1;
            while (Math.floorMod(at, spans[level]) != 0 || at - spans[level] < start) {
                level--;
            }
            at -= spans[level];
            Tile tile = tiles.get(key(level, Math.floorDiv(at, spans[level])));
            if (tile != null) {
                into.merge(tile, slots);
            }
        }
    }

    /** Remove the tiles that no window reaches which ends after base tile number `end` begins. */
    private void sweep(MapView<Long, Tile> tiles, MapView<Integer, Long> newest, long end) throws Exception {
        Long last = newest.get(ONLY);
        // The windows of the next row begin at this tile or later. The windows of the last row are asked for once more.
        long oldest = end - plan.longest();
        // The first tile to close is the oldest there is.
        long before = last == null ? Math.min(end - 1, oldest) : last - plan.longest();
        if (oldest - before > STEPS_MAX) {
            for (Iterator<Map.Entry<Long, Tile>> each = tiles.iterator(); each.hasNext(); ) {
                long key = each.next().getKey();
                long span = spans[(int) Math.floorMod(key, (long) LEVELS)];
                if ((Math.floorDiv(key, (long) LEVELS) + 1) * span <= oldest) {
                    each.remove();
                }
            }
        } else {
            for (int level = 0; level < spans.length; level++) {
                long until = Math.floorDiv(oldest, spans[level]);
                for (long number = Math.floorDiv(before, spans[level]); number < until; number++) {
                    tiles.remove(key(level, number));
                }
            }
        }
        if (tiles.isEmpty()) {
            newest.clear();
        } else {
            newest.put(ONLY, end);
        }
    }

    private static long key(int level, long number) {
        return number * LEVELS + level;
    }
}
