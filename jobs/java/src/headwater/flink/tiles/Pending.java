package headwater.flink.tiles;

import java.io.IOException;
import java.util.Map;
import java.util.TreeMap;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;

/** Changes that take effect in one tile: by the base tile that their rows are in, what is to be added there. */
public final class Pending {
    final TreeMap<Long, Tile> parts = new TreeMap<>();

    void write(DataOutputView out) throws IOException {
        out.writeInt(parts.size());
        for (Map.Entry<Long, Tile> each : parts.entrySet()) {
            out.writeLong(each.getKey());
            each.getValue().write(out);
        }
    }

    static Pending read(DataInputView in) throws IOException {
        Pending found = new Pending();
        for (int left = in.readInt(); left > 0; left--) {
            found.parts.put(in.readLong(), Tile.read(in));
        }
        return found;
    }
}
