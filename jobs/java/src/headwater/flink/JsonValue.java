package headwater.flink;

import java.io.IOException;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonParser;

/** One Avro type in JSON and Flink's internal form of it. Stateless, so one instance serves a whole subtask. */
abstract class JsonValue {
    private static final int SHOWN_CHARS = 100;

    /**
     * The value at the parser's token, as Flink's internal form; the parser is left at the value's last token.
     *
     * @throws BadRecord without the field, which the parser's context knows
     */
    abstract Object read(JsonParser in) throws IOException;

    /** The value at the parser's token is not what was expected. */
    static BadRecord bad(String expected, JsonParser in) throws IOException {
        return new BadRecord(expected, got(in));
    }

    private static String got(JsonParser in) throws IOException {
        switch (in.currentToken()) {
            case START_OBJECT:
                return "an object";
            case START_ARRAY:
                return "an array";
            case VALUE_STRING:
                return "the string \"" + shown(in.getText()) + "\"";
            case VALUE_NUMBER_INT:
            case VALUE_NUMBER_FLOAT:
                return "the number " + shown(in.getText());
            default:
                return in.getText();
        }
    }

    static String shown(String text) {
        return text.length() <= SHOWN_CHARS ? text : text.substring(0, SHOWN_CHARS) + "...";
    }
}
