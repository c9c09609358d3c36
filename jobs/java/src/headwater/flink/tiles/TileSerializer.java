package headwater.flink.tiles;

import java.io.IOException;
import org.apache.flink.api.common.typeutils.SimpleTypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.TypeSerializerSnapshot;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;

/** Tiles in Flink's state. A tile says itself what it is made of, so one serializer reads those of every view. */
public final class TileSerializer extends StateSerializer<Tile> {
    private static final long serialVersionUID = 1;

    @Override
    public Tile createInstance() {
        return new Tile(new Kind[0]);
    }

    @Override
    void write(Tile state, DataOutputView out) throws IOException {
        state.write(out);
    }

    @Override
    Tile read(DataInputView in) throws IOException {
        return Tile.read(in);
    }

    @Override
    public TypeSerializerSnapshot<Tile> snapshotConfiguration() {
        return new Snapshot();
    }

    /** Its class is all there is to say of the serializer. */
    public static final class Snapshot extends SimpleTypeSerializerSnapshot<Tile> {
        public Snapshot() {
            super(TileSerializer::new);
        }
    }
}
