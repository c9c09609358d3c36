package headwater.flink.tiles;

import java.io.IOException;
import org.apache.flink.api.common.typeutils.SimpleTypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.TypeSerializerSnapshot;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;

/** Pending changes in Flink's state. */
public final class PendingSerializer extends StateSerializer<Pending> {
    private static final long serialVersionUID = 1;

    @Override
    public Pending createInstance() {
        return new Pending();
    }

    @Override
    void write(Pending state, DataOutputView out) throws IOException {
        state.write(out);
    }

    @Override
    Pending read(DataInputView in) throws IOException {
        return Pending.read(in);
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
