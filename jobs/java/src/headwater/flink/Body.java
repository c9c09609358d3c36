package headwater.flink;

import org.apache.flink.table.data.GenericRowData;

/** How a record is written behind its header, if it has one. Holds what it reads with, so one serves one subtask. */
interface Body {
    /**
     * Read a record into the first columns of a row.
     *
     * @throws BadRecord where it is not what the schema says; the row may hold a part of it then
     */
    void read(byte[] message, int from, GenericRowData row);
}
