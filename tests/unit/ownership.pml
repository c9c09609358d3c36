/* The rules of jobs/retraining/ownership.py and claims.py, without time, for every order in which things can happen.

   What members say may be heard at any later time, or never. Nothing here says when: who has stood, voted, owned and
   claimed has done so for good, and whoever acts on it acts as late as it likes. Time comes in at one place, which is
   what leases and the waiting of voters are for: a voter is free to vote again only when no owner counts on it.

   There is one incident. The training platform makes a run of each request that comes, and shows it only then.

   spin -a -DREGIONS=2 -DWITNESSES=1 -DEPOCHS=3 ownership.pml; cc -O2 -DSAFETY -DCOLLAPSE -o pan pan.c; ./pan -m1000000
   Without a rule (-DNO_LEASE, -DNO_COMMIT, -DNO_CATCH_UP, -DNO_HIDING, -DNO_EPOCHS or -DHALF) an assertion fails. */

#ifndef REGIONS
#define REGIONS 2
#endif
#ifndef WITNESSES
#define WITNESSES 1
#endif
#ifndef EPOCHS
#define EPOCHS 3
#endif
#define N (REGIONS + WITNESSES)
#define NOBODY N
#ifdef HALF
#define MAJORITY (N / 2)
#else
#define MAJORITY (N / 2 + 1)
#endif
#ifdef NO_LEASE
#define MAY_VOTE(v) true
#else
#define MAY_VOTE(v) free[v]
#endif
#ifdef NO_EPOCHS
#define NEWER(e, v) (e >= promised[v])
#else
#define NEWER(e, v) (e > promised[v])
#endif
#ifdef NO_CATCH_UP
#define CATCHES_UP false
#else
#define CATCHES_UP true
#endif
#ifdef NO_COMMIT
#define COMMITS false
#else
#define COMMITS true
#endif
#ifdef NO_HIDING
#define HIDES false
#else
#define HIDES true
#endif

mtype = { follower, candidate, owner };

typedef ByEpoch { byte of_epoch[EPOCHS + 1] };
typedef Voters { bit counted[N] };

byte promised[N];           /* newest epoch it has voted in, or heard an owner of */
byte granted[N];            /* whom it listens to in that epoch */
bit free[N];                /* nobody counts on that any more */
ByEpoch voted[N];           /* for whom, for good */
ByEpoch voted_knowing[N];   /* whether it held the claim then */
byte owned[EPOCHS + 1];     /* by whom, for good */
mtype role[N];              /* of the process that runs, in the epoch it has promised */
bit knows[N];               /* holds the claim of the incident */
bit fresh[N];               /* has claimed it with nobody before, and has not asked for it yet */
Voters rely[N];
bit ghosts = 0;             /* a process has been stopped, and another started beside it */
Voters ghost;               /* on whom the first still counts */
bit ghost_ready = 0;        /* a majority holds the claim it is about to submit */
bit ghost_fresh = 0;
byte under_way = 0;
byte runs = 0;

byte v, r, e, i, count, count2;
bit known;

inline pick(x, low, high) { x = low; do :: x < high -> x++ :: break od }
inline clear() { v = 0; r = 0; e = 0; i = 0; count = 0; count2 = 0; known = 0 }

inline votes(for_whom, in_epoch) {
  count = 0; known = 0; i = 0;
  do
  :: i < N -> if
              :: voted[i].of_epoch[in_epoch] == for_whom ->
                 count++; known = known | voted_knowing[i].of_epoch[in_epoch]
              :: else -> skip
              fi; i++
  :: else -> break
  od
}
inline holders() { count = 0; i = 0; do :: i < N -> count = count + knows[i]; i++ :: else -> break od }
inline relied(who) { count = 0; i = 0; do :: i < N -> count = count + who.counted[i]; i++ :: else -> break od }
inline forget(who) { i = 0; do :: i < N -> who.counted[i] = 0; i++ :: else -> break od }
inline resign(who) { role[who] = follower; fresh[who] = 0; forget(rely[who]) }

inline at_most_one_may_submit() {
  count2 = 0; e = 0;
  do
  :: e < REGIONS -> relied(rely[e]); if :: count >= MAJORITY -> count2++ :: else -> skip fi; e++
  :: else -> break
  od;
  relied(ghost); if :: count >= MAJORITY -> count2++ :: else -> skip fi;
  assert(count2 <= 1)
}

inline request() {
  under_way++;
  assert(runs + under_way <= 1)
}

init {
  atomic {
    do
    :: v < N -> granted[v] = NOBODY; free[v] = 1; role[v] = follower; e = 0;
                do :: e <= EPOCHS -> voted[v].of_epoch[e] = NOBODY; e++ :: else -> break od; v++
    :: else -> break
    od;
    e = 0; do :: e <= EPOCHS -> owned[e] = NOBODY; e++ :: else -> break od;
    clear()
  }
  do
  :: atomic { /* stand for an epoch after all that are known of, be they few */
       pick(r, 0, REGIONS - 1); pick(e, 1, EPOCHS);
       if
       :: free[r] && role[r] == follower && e > promised[r] ->
          promised[r] = e; granted[r] = r; role[r] = candidate; free[r] = 0;
          voted[r].of_epoch[e] = r; voted_knowing[r].of_epoch[e] = knows[r]
       :: else -> skip
       fi; clear() }
  :: atomic { /* vote for one who stood, be it long ago */
       pick(v, 0, N - 1); pick(r, 0, REGIONS - 1); pick(e, 1, EPOCHS);
       if
       :: v != r && voted[r].of_epoch[e] == r && NEWER(e, v) && MAY_VOTE(v) ->
          resign(v);
          promised[v] = e; granted[v] = r; free[v] = 0;
          voted[v].of_epoch[e] = r; voted_knowing[v].of_epoch[e] = knows[v]
       :: else -> skip
       fi; clear() }
  :: atomic { /* follow one who owned, be it long ago */
       pick(v, 0, N - 1); pick(e, 1, EPOCHS); r = owned[e];
       if
       :: r != NOBODY && r != v && e >= promised[v] && (e > promised[v] || granted[v] != r) ->
          resign(v);
          promised[v] = e; granted[v] = r; free[v] = 0
       :: else -> skip
       fi; clear() }
  :: atomic { /* be elected */
       pick(r, 0, REGIONS - 1);
       votes(r, promised[r]);
       if
       :: role[r] == candidate && count >= MAJORITY && (!known || knows[r] || !CATCHES_UP) ->
          assert(owned[promised[r]] == NOBODY);
          role[r] = owner; owned[promised[r]] = r
       :: else -> skip
       fi; clear() }
  :: atomic { /* count on a voter that listens, and has not waited in vain since */
       pick(r, 0, REGIONS - 1); pick(v, 0, N - 1);
       if
       :: role[r] == owner && promised[v] == promised[r] && granted[v] == r && !free[v] && !rely[r].counted[v] ->
          rely[r].counted[v] = 1;
          at_most_one_may_submit()
       :: else -> skip
       fi; clear() }
  :: atomic { /* and no more */
       pick(r, 0, REGIONS - 1); pick(v, 0, N - 1);
       if :: rely[r].counted[v] = 0 :: ghost.counted[v] = 0 fi; clear() }
  :: atomic { /* have waited long enough */
       pick(v, 0, N - 1);
       count = ghost.counted[v]; i = 0;
       do :: i < N -> count = count + rely[i].counted[v]; i++ :: else -> break od;
       if :: count == 0 -> free[v] = 1 :: else -> skip fi; clear() }
  :: atomic { /* give up, hand over, or die and start again: what was said stays said */
       pick(r, 0, REGIONS - 1); holders();
       if
       :: resign(r); free[r] = 0
       :: role[r] == owner && !ghosts ->
          ghosts = 1; ghost_ready = knows[r] && (count >= MAJORITY || !COMMITS); ghost_fresh = fresh[r]; i = 0;
          do :: i < N -> ghost.counted[i] = rely[r].counted[i]; i++ :: else -> break od;
          resign(r); free[r] = 0
       fi; clear() }
  :: atomic { /* a claim is mirrored, said again, or supplied */
       pick(v, 0, N - 1); holders();
       if :: count > 0 -> knows[v] = 1 :: else -> skip fi; clear() }
  :: atomic { /* claim */
       pick(r, 0, REGIONS - 1);
       if :: role[r] == owner && !knows[r] -> knows[r] = 1; fresh[r] = 1 :: else -> skip fi; clear() }
  :: atomic { /* submit */
       pick(r, 0, REGIONS - 1); holders(); known = count >= MAJORITY || !COMMITS; relied(rely[r]);
       if
       :: role[r] == owner && knows[r] && known && count >= MAJORITY && runs == 0 &&
          (fresh[r] || under_way == 0 || !HIDES) ->
          fresh[r] = 0;
          request()
       :: else -> skip
       fi; clear() }
  :: atomic { /* who was stopped goes on with what it was about to do */
       relied(ghost);
       if
       :: ghost_ready && count >= MAJORITY && runs == 0 && (ghost_fresh || under_way == 0 || !HIDES) ->
          ghost_ready = 0; ghost_fresh = 0;
          request()
       :: else -> skip
       fi; clear() }
  :: atomic { /* a request comes */
       if :: under_way > 0 -> under_way--; runs++ :: else -> skip fi; clear() }
  od
}
