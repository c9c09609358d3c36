package headwater.flink;

import java.time.YearMonth;
import java.time.LocalDate;

/**
 * Times as people write them in JSON.
 *
 * <p>Text is ISO 8601: a date; or with a T or a space a time of day, of which seconds and their fraction may be left
 * out; or with a zone (Z, +01:00) as well. Without a zone it is UTC. What is finer than microseconds is dropped.
 *
 * <p>A number is seconds, milliseconds, microseconds or nanoseconds since 1970: the unit in which it lies in the years
 * 2000 to 2099. No number does so in two of them, and one that does in none is no time: so none is wrong by a factor
 * of 1000.
 */
final class JsonTimes {
    static final String TEXT = "a time like \"2024-02-29T12:00:00Z\", in the years 1 to 9999";
    static final String NUMBER =
            "a time in seconds, milliseconds, microseconds or nanoseconds since 1970 that lies in the years 2000 to 2099";
    static final long NO_TIME = Long.MIN_VALUE;
    static final int NO_DAY = Integer.MIN_VALUE;

    private static final long NUMBER_MIN_S = 946_684_800L; // 2000-01-01
    private static final long NUMBER_END_S = 4_102_444_800L; // 2100-01-01
    private static final long MIN_US = -62_135_596_800_000_000L;
    private static final long MAX_US = 253_402_300_799_999_999L;
    private static final long SECOND_US = 1_000_000L;
    private static final int FRACTION_DIGITS_MAX = 9;

    private JsonTimes() {}

    /** Microseconds since 1970 of an integer; {@link #NO_TIME} where it is none. */
    static long micros(long number) {
        for (long perSecond = 1; perSecond <= 1_000_000_000L; perSecond *= 1000) {
            if (number >= NUMBER_MIN_S * perSecond && number < NUMBER_END_S * perSecond) {
                return perSecond <= SECOND_US ? number * (SECOND_US / perSecond) : Math.floorDiv(number, 1000L);
            }
        }
        return NO_TIME;
    }

    /** Microseconds since 1970 of a number with a fraction, to the nearest. */
    static long micros(double number) {
        for (long perSecond = 1; perSecond <= 1_000_000_000L; perSecond *= 1000) {
            if (number >= (double) (NUMBER_MIN_S * perSecond) && number < (double) (NUMBER_END_S * perSecond)) {
                double scaled = perSecond <= SECOND_US ? number * (SECOND_US / perSecond) : number / 1000;
                return (long) Math.rint(scaled);
            }
        }
        return NO_TIME;
    }

    /** Microseconds since 1970 of text; {@link #NO_TIME} where it is none. */
    static long micros(String text) {
        int day = text.length() < 10 ? NO_DAY : day(text.substring(0, 10));
        if (day == NO_DAY) {
            return NO_TIME;
        }
        long micros = day * 86_400L * SECOND_US;
        int end = text.length();
        int at = 10;
        if (at < end) {
            char separator = text.charAt(at);
            int hour = two(text, at + 1);
            int minute = at + 3 < end && text.charAt(at + 3) == ':' ? two(text, at + 4) : -1;
            if ((separator != 'T' && separator != 't' && separator != ' ') || hour < 0 || hour > 23 || minute < 0
                    || minute > 59) {
                return NO_TIME;
            }
            micros += (hour * 3600L + minute * 60L) * SECOND_US;
            at += 6;
            if (at < end && text.charAt(at) == ':') {
                int second = two(text, at + 1);
                if (second < 0 || second > 59) {
                    return NO_TIME;
                }
                micros += second * SECOND_US;
                at += 3;
                if (at < end && text.charAt(at) == '.') {
                    int first = ++at;
                    for (long unit = SECOND_US / 10; at < end && digit(text, at) >= 0; at++, unit /= 10) {
                        micros += digit(text, at) * unit;
                    }
                    if (at == first || at - first > FRACTION_DIGITS_MAX) {
                        return NO_TIME;
                    }
                }
            }
            int offset = zoneMinutes(text, at);
            if (offset == NO_DAY) {
                return NO_TIME;
            }
            micros -= offset * 60L * SECOND_US;
        }
        return micros < MIN_US || micros > MAX_US ? NO_TIME : micros;
    }

    /** Days since 1970 of a date; {@link #NO_DAY} where it is none. */
    static int day(String text) {
        if (text.length() != 10 || text.charAt(4) != '-' || text.charAt(7) != '-') {
            return NO_DAY;
        }
        int century = two(text, 0);
        int years = two(text, 2);
        int month = two(text, 5);
        int day = two(text, 8);
        int year = century * 100 + years;
        if (century < 0 || years < 0 || year < 1 || month < 1 || month > 12 || day < 1
                || day > YearMonth.of(year, month).lengthOfMonth()) {
            return NO_DAY;
        }
        return (int) LocalDate.of(year, month, day).toEpochDay();
    }

    /** Minutes east of UTC, from where the zone begins to the end; 0 where there is none. */
    private static int zoneMinutes(String text, int at) {
        int left = text.length() - at;
        if (left == 0 || (left == 1 && (text.charAt(at) == 'Z' || text.charAt(at) == 'z'))) {
            return 0;
        }
        char sign = text.charAt(at);
        boolean colon = left == 6 && text.charAt(at + 3) == ':';
        if ((sign != '+' && sign != '-') || !(left == 3 || left == 5 || colon)) {
            return NO_DAY;
        }
        int hours = two(text, at + 1);
        int minutes = left == 3 ? 0 : two(text, at + (colon ? 4 : 3));
        if (hours < 0 || hours > 23 || minutes < 0 || minutes > 59) {
            return NO_DAY;
        }
        return (sign == '-' ? -1 : 1) * (hours * 60 + minutes);
    }

    /** A number of two digits, or -1. */
    private static int two(String text, int at) {
        if (at + 2 > text.length()) {
            return -1;
        }
        int tens = digit(text, at);
        int ones = digit(text, at + 1);
        return tens < 0 || ones < 0 ? -1 : tens * 10 + ones;
    }

    private static int digit(String text, int at) {
        char each = text.charAt(at);
        return each >= '0' && each <= '9' ? each - '0' : -1;
    }
}
