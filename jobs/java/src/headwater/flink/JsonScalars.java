package headwater.flink;

import java.io.IOException;
import java.math.BigDecimal;
import java.util.Base64;
import java.util.regex.Pattern;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonParser;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonToken;
import org.apache.flink.table.data.DecimalData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.data.TimestampData;

/** The scalars of JSON topics. {@code schemas/json_codec.py} has the same rules for the archive. */
final class JsonScalars {
    // From here on a double does not hold every integer.
    private static final double EXACT_MAX = 9_007_199_254_740_992d;

    private JsonScalars() {}

    static final class Booleans extends JsonValue {
        @Override
        Object read(JsonParser in) throws IOException {
            JsonToken token = in.currentToken();
            if (token != JsonToken.VALUE_TRUE && token != JsonToken.VALUE_FALSE) {
                throw bad("a boolean", in);
            }
            return token == JsonToken.VALUE_TRUE;
        }
    }

    /** INT and BIGINT: a number without a fraction, however it is written. */
    static final class Integers extends JsonValue {
        private final String what;
        private final boolean small;

        Integers(boolean small) {
            this.small = small;
            what = small ? "an integer of 32 bits" : "an integer of 64 bits";
        }

        @Override
        Object read(JsonParser in) throws IOException {
            long value = exact(in, what);
            if (!small) {
                return value;
            }
            if (value != (int) value) {
                throw bad(what, in);
            }
            return (int) value;
        }
    }

    static final class Doubles extends JsonValue {
        @Override
        Object read(JsonParser in) throws IOException {
            return number(in, "a double");
        }
    }

    static final class Floats extends JsonValue {
        @Override
        Object read(JsonParser in) throws IOException {
            float value = (float) number(in, "a float");
            if (Float.isInfinite(value)) {
                throw bad("a float", in);
            }
            return value;
        }
    }

    static final class Strings extends JsonValue {
        @Override
        Object read(JsonParser in) throws IOException {
            if (in.currentToken() != JsonToken.VALUE_STRING) {
                throw bad("a string", in);
            }
            return text(in.getText());
        }
    }

    /** BYTES, in base64 with its padding. */
    static final class Bytes extends JsonValue {
        @Override
        Object read(JsonParser in) throws IOException {
            String text = in.currentToken() == JsonToken.VALUE_STRING ? in.getText() : null;
            try {
                if (text != null && text.length() % 4 == 0) {
                    return Base64.getDecoder().decode(text);
                }
            } catch (IllegalArgumentException notBase64) {
                // Said below.
            }
            throw bad("a string in base64", in);
        }
    }

    /** DECIMAL: a number or a string of one, exactly. */
    static final class Decimals extends JsonValue {
        private static final Pattern TEXT = Pattern.compile("[+-]?(\\d+\\.?\\d*|\\.\\d+)([eE][+-]?\\d{1,9})?");
        private static final int CHARS_MAX = 1000;

        private final int precision;
        private final int scale;

        Decimals(int precision, int scale) {
            this.precision = precision;
            this.scale = scale;
        }

        @Override
        Object read(JsonParser in) throws IOException {
            boolean scalar = in.currentToken() == JsonToken.VALUE_STRING || in.currentToken().isNumeric();
            String text = scalar ? in.getText() : "";
            if (text.length() <= CHARS_MAX && TEXT.matcher(text).matches()) {
                BigDecimal value = new BigDecimal(text).stripTrailingZeros();
                // Looked at before it is padded with zeros, of which an exponent may ask for any number.
                if (value.signum() == 0) {
                    return DecimalData.zero(precision, scale);
                }
                if (value.scale() <= scale && value.precision() - value.scale() <= precision - scale) {
                    return DecimalData.fromBigDecimal(value.setScale(scale), precision, scale);
                }
            }
            throw bad("a decimal of at most " + precision + " digits, " + scale + " of them behind the point", in);
        }
    }

    static final class Dates extends JsonValue {
        @Override
        Object read(JsonParser in) throws IOException {
            int day = in.currentToken() == JsonToken.VALUE_STRING ? JsonTimes.day(in.getText()) : JsonTimes.NO_DAY;
            if (day == JsonTimes.NO_DAY) {
                throw bad("a date like \"2024-02-29\", in the years 1 to 9999", in);
            }
            return day;
        }
    }

    /** TIMESTAMP and TIMESTAMP_LTZ: text, or a number since 1970; see {@link JsonTimes}. */
    static final class Timestamps extends JsonValue {
        @Override
        Object read(JsonParser in) throws IOException {
            long micros;
            switch (in.currentToken()) {
                case VALUE_STRING:
                    micros = JsonTimes.micros(in.getText());
                    break;
                case VALUE_NUMBER_INT:
                    micros = isLong(in) ? JsonTimes.micros(in.getLongValue()) : JsonTimes.NO_TIME;
                    break;
                case VALUE_NUMBER_FLOAT:
                    micros = JsonTimes.micros(Double.parseDouble(in.getText()));
                    break;
                default:
                    micros = JsonTimes.NO_TIME;
            }
            if (micros == JsonTimes.NO_TIME) {
                throw bad(in.currentToken().isNumeric() ? JsonTimes.NUMBER : JsonTimes.TEXT, in);
            }
            return TimestampData.fromEpochMillis(
                    Math.floorDiv(micros, 1000L), (int) Math.floorMod(micros, 1000L) * 1000);
        }
    }

    /** Text that UTF-8 can hold: an escape may name half of a character. */
    static StringData text(String text) {
        for (int i = 0; i < text.length(); i++) {
            char each = text.charAt(i);
            if (Character.isSurrogate(each)) {
                if (Character.isLowSurrogate(each) || i + 1 == text.length()
                        || !Character.isLowSurrogate(text.charAt(i + 1))) {
                    throw new BadRecord("text in UTF-8", String.format("half of a character, \\u%04x", (int) each));
                }
                i++;
            }
        }
        return StringData.fromString(text);
    }

    private static double number(JsonParser in, String what) throws IOException {
        if (!in.currentToken().isNumeric()) {
            throw JsonValue.bad(what, in);
        }
        double value = Double.parseDouble(in.getText());
        if (Double.isInfinite(value)) {
            throw JsonValue.bad(what, in);
        }
        return value;
    }

    private static boolean isLong(JsonParser in) throws IOException {
        return in.getNumberType() != JsonParser.NumberType.BIG_INTEGER;
    }

    private static long exact(JsonParser in, String what) throws IOException {
        if (in.currentToken() == JsonToken.VALUE_NUMBER_INT) {
            if (isLong(in)) {
                return in.getLongValue();
            }
        } else if (in.currentToken() == JsonToken.VALUE_NUMBER_FLOAT) {
            double value = Double.parseDouble(in.getText());
            if (Math.abs(value) < EXACT_MAX && value == Math.rint(value)) {
                return (long) value;
            }
        }
        throw JsonValue.bad(what, in);
    }
}
