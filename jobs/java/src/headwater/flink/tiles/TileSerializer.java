package headwater.flink.tiles;

import java.io.IOException;
import org.apache.flink.api.common.typeutils.SimpleTypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.TypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.base.TypeSerializerSingleton;
import org.apache.flink.core.memory.DataInputDeserializer;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputSerializer;
import org.apache.flink.core.memory.DataOutputView;

/** Tiles in Flink's state. A tile says itself what it is made of, so one serializer reads those of every view. */
public final class TileSerializer extends TypeSerializerSingleton<Tile> {
    private static final long serialVersionUID = 1;

    @Override
    public boolean isImmutableType() {
        return false;
    }

    @Override
    public Tile createInstance() {
        return new Tile(new Kind[0]);
    }

    @Override
    public Tile copy(Tile from) {
        try {
            DataOutputSerializer out = new DataOutputSerializer(256);
            from.write(out);
            return Tile.read(new DataInputDeserializer(out.getSharedBuffer(), 0, out.length()));
        } catch (IOException impossible) {
            throw new IllegalStateException("a tile cannot be written to memory", impossible);
        }
    }

    @Override
    public Tile copy(Tile from, Tile reuse) {
        return copy(from);
    }

    @Override
    public int getLength() {
        return -1;
    }

    @Override
    public void serialize(Tile record, DataOutputView target) throws IOException {
        record.write(target);
    }

    @Override
    public Tile deserialize(DataInputView source) throws IOException {
        return Tile.read(source);
    }

    @Override
    public Tile deserialize(Tile reuse, DataInputView source) throws IOException {
        return Tile.read(source);
    }

    @Override
    public void copy(DataInputView source, DataOutputView target) throws IOException {
        Tile.read(source).write(target);
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
