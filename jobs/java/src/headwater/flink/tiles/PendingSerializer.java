package headwater.flink.tiles;

import java.io.IOException;
import org.apache.flink.api.common.typeutils.SimpleTypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.TypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.base.TypeSerializerSingleton;
import org.apache.flink.core.memory.DataInputDeserializer;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputSerializer;
import org.apache.flink.core.memory.DataOutputView;

/** Pending changes in Flink's state. */
public final class PendingSerializer extends TypeSerializerSingleton<Pending> {
    private static final long serialVersionUID = 1;

    @Override
    public boolean isImmutableType() {
        return false;
    }

    @Override
    public Pending createInstance() {
        return new Pending();
    }

    @Override
    public Pending copy(Pending from) {
        try {
            DataOutputSerializer out = new DataOutputSerializer(256);
            from.write(out);
            return Pending.read(new DataInputDeserializer(out.getSharedBuffer(), 0, out.length()));
        } catch (IOException impossible) {
            throw new IllegalStateException("pending changes cannot be written to memory", impossible);
        }
    }

    @Override
    public Pending copy(Pending from, Pending reuse) {
        return copy(from);
    }

    @Override
    public int getLength() {
        return -1;
    }

    @Override
    public void serialize(Pending record, DataOutputView target) throws IOException {
        record.write(target);
    }

    @Override
    public Pending deserialize(DataInputView source) throws IOException {
        return Pending.read(source);
    }

    @Override
    public Pending deserialize(Pending reuse, DataInputView source) throws IOException {
        return Pending.read(source);
    }

    @Override
    public void copy(DataInputView source, DataOutputView target) throws IOException {
        Pending.read(source).write(target);
    }

    @Override
    public TypeSerializerSnapshot<Pending> snapshotConfiguration() {
        return new Snapshot();
    }

    /** Its class is all there is to say of the serializer. */
    public static final class Snapshot extends SimpleTypeSerializerSnapshot<Pending> {
        public Snapshot() {
            super(PendingSerializer::new);
        }
    }
}
