package headwater.flink;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.CharBuffer;
import java.nio.charset.CharsetDecoder;
import java.nio.charset.StandardCharsets;

/** Whether bytes are text. */
final class Utf8 {
    private static final VarHandle LONGS = MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.LITTLE_ENDIAN);
    private static final long HIGH_BITS = 0x8080808080808080L;
    private static final int CHUNK_CHARS = 512;

    private Utf8() {}

    /** Where the first character that is not UTF-8 begins; -1 where all are. */
    static int firstBad(byte[] data, int start, int end) {
        int i = start;
        while (i + 8 <= end && ((long) LONGS.get(data, i) & HIGH_BITS) == 0) {
            i += 8;
        }
        while (i < end && data[i] >= 0) {
            i++;
        }
        return i < end ? firstBadSlowly(data, i, end) : -1;
    }

    private static int firstBadSlowly(byte[] data, int start, int end) {
        CharsetDecoder decoder = StandardCharsets.UTF_8.newDecoder(); // reports what it cannot decode
        ByteBuffer in = ByteBuffer.wrap(data, start, end - start);
        CharBuffer out = CharBuffer.allocate(Math.min(CHUNK_CHARS, end - start + 1));
        while (true) {
            var result = decoder.decode(in, out, true);
            if (result.isError()) {
                return in.position();
            }
            if (result.isUnderflow()) {
                return -1;
            }
            out.clear();
        }
    }
}
